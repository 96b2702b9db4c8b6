"""Run a throw-away PostgreSQL of the system's packages; tests and benchmarks start it too.

    python scripts/postgres_server.py [--no-fsync]

Prints the address of the server's maintenance database, and stops and removes everything when its
input ends or it is told to stop. Exit code 3: there is no PostgreSQL on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "autovacuum_naptime": "10s",
}


def find_binaries() -> Path | None:
    """Return the folder with initdb and postgres; Debian keeps them off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            return folder.resolve()
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """Own the data folder and the process. As root the server runs as the user `postgres`."""

    def __init__(self, binaries: Path, *, fsync: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glmimage-postgres-"))
        self.port = free_port()
        self._as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._as_user:
            shutil.chown(self.folder, "postgres", "postgres")
        data = self.folder / "data"
        subprocess.run(
            [
                *(binaries / "initdb", "--pgdata", data, "--username", "glmimage"),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as_user,
        )
        settings = SETTINGS | {"fsync": "on" if fsync else "off"}
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        self._command = [
            *(binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port)),
            *("-k", self.folder, *options),
        ]
        self._ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self.start()

    @property
    def address(self) -> str:
        return f"postgresql://glmimage@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.folder,
                # Ctrl-C in a terminal is for whoever started this server, and stops it in order
                start_new_session=True,
                **self._as_user,
            )

    def halt(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT breaks its sessions and leaves in order, SIGQUIT is a crash."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def wait_until_ready(self) -> None:
        while subprocess.run(self._ready, check=False).returncode != 0:
            if self._process.poll() is not None:
                raise SystemExit((self.folder / "log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-fsync", action="store_true", help="faster, for tests")
    options = parser.parse_args()
    binaries = find_binaries()
    if binaries is None:
        print("PostgreSQL is not installed (Debian: apt-get install postgresql).", file=sys.stderr)
        return 3
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    server = Server(binaries, fsync=not options.no_fsync)
    try:
        server.wait_until_ready()
        print(server.address, flush=True)
        sys.stdin.read()
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
