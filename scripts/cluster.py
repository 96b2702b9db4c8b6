"""Run a whole cluster on this machine: PostgreSQL, an S3 server, two gateways, workers of a stage.

    make cluster
    python scripts/cluster.py [--model MODEL] [--prior N] [--decode N]

The S3 server is moto, a stand-in for MinIO or a cloud's; PostgreSQL is the system's, run as whoever
runs this. A balancer hands connections to the gateways in turn, and a process that ends is started
again, as an orchestrator would. Everything listens on this machine only, lives in one temporary
folder, and is gone after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import boto3
from botocore.config import Config
from postgres_server import Server, find_binaries, free_port

from glmimage.server.serving import Serving, find_serving, read_first_key

START_WITHIN_S = 300.0
STOP_WITHIN_S = 40.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "cluster", "AWS_SECRET_ACCESS_KEY": "cluster"}
GLMIMAGE = [sys.executable, "-m", "glmimage"]


class Balancer:
    """Hand connections of one port to several others in turn, passing over those that refuse."""

    def __init__(self, ports: list[int]) -> None:
        self.ports, self.port = ports, 0
        self.num_served = dict.fromkeys(ports, 0)
        self._turn = 0

    async def open(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self.ports:
            port = self.ports[self._turn % len(self.ports)]
            self._turn += 1
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                self.num_served[port] += 1
                await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
                break
        writer.transport.abort()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        with suppress(OSError):
            writer.close()


class Part:
    """Own one process of the cluster; its output goes to a file of its name."""

    def __init__(self, folder: Path, name: str, command: list[str], variables: dict[str, str]):
        self.name, self.command = name, command
        self.log = folder / f"{name}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")}
        self.environment = kept | CREDENTIALS | variables
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            # Ctrl-C in the terminal is for us; we stop the parts in order
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Cluster:
    """Start everything when made; `stop` leaves nothing. `data_dir` is what `exec` leads to."""

    def __init__(self, model: str, num_prior: int, num_decode: int, **variables: str) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql).")
        self.folder = Path(tempfile.mkdtemp(prefix="glmimage-cluster-"))
        self.parts: list[Part] = []
        self.postgres: Server | None = None
        self._stopping = False
        try:
            self.postgres = Server(binaries, fsync=True)
            self.postgres.wait_until_ready()
            self.bucket = self._start_bucket()
            self._shared = {
                "GLMIMAGE_MODEL": model,
                "GLMIMAGE_DATABASE_URL": self.postgres.address,
                "GLMIMAGE_FILES_URL": f"s3://pictures?endpoint={self.bucket}"
                "&region=us-east-1&path_style=true",
                "GLMIMAGE_SECRET": secrets.token_hex(32),
            } | variables
            self._start_gateways()
            for stage, number in (("prior", num_prior), ("decode", num_decode)):
                for index in range(1, number + 1):
                    self._start_worker(f"{stage}-{index}", stage)
            self._balance()
            threading.Thread(target=self._keep_up, daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def stop(self) -> None:
        """End all in order: workers, gateways, S3 server, PostgreSQL; remove the folder."""
        self._stopping = True
        for part in self.parts[1:]:
            part.stop()
        for part in [*self.parts[1:], *self.parts[:1]]:
            part.stop()
            part.wait()
        if self.postgres is not None:
            self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until_ready(self) -> None:
        """Wait until every worker has loaded its model."""
        for part in self.parts:
            if part.name.startswith(("prior", "decode")):
                self._until(lambda part=part: "was loaded" in part.log.read_text(), part)

    def _start_bucket(self) -> str:
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.parts.append(part := Part(self.folder, "bucket", command, {}))
        address = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="cluster",
            aws_secret_access_key="cluster",
            config=Config(retries={"max_attempts": 0}, connect_timeout=2),
        )

        def made() -> bool:
            with suppress(Exception):
                client.create_bucket(Bucket="pictures")
                return True
            return False

        self._until(made, part)
        return address

    def _start_gateways(self) -> None:
        """Start two; the second has the CA of the first, so that clients trust either."""
        self.gateways: list[Serving] = []
        for name in ("gateway-1", "gateway-2"):
            data_dir = self.folder / name
            if self.gateways:
                shutil.copytree(self.folder / "gateway-1" / "tls", data_dir / "tls")
            ports = [str(free_port()), str(free_port())]
            command = [*GLMIMAGE, "serve", "--workers", "0"]
            command += ["--http-port", ports[0], "--https-port", ports[1]]
            variables = self._shared | {"GLMIMAGE_DATA_DIR": str(data_dir)}
            self.parts.append(part := Part(self.folder, name, command, variables))
            self._until(lambda data_dir=data_dir: find_serving(data_dir) is not None, part)
            found = find_serving(data_dir)
            assert found is not None
            self.gateways.append(found)

    def _start_worker(self, name: str, stage: str) -> None:
        command = [*GLMIMAGE, "worker", "--stages", stage, "--until-stdin-closes"]
        variables = self._shared | {"GLMIMAGE_DATA_DIR": str(self.folder / name)}
        self.parts.append(Part(self.folder, name, command, variables))

    def _balance(self) -> None:
        """Listen for http and https, and leave the address where `exec` looks for it."""

        def ports(kind: str) -> list[int]:
            return [int(getattr(one, kind).rpartition(":")[2]) for one in self.gateways]

        self.http, self.https = Balancer(ports("http")), Balancer(ports("https"))
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        for balancer in (self.http, self.https):
            asyncio.run_coroutine_threadsafe(balancer.open(), loop).result(10)
        self.data_dir = self.folder / "client"
        for part in ("keys", "tls"):
            (self.data_dir / part).mkdir(parents=True)
        self.key = read_first_key(self.folder / "gateway-1") or ""
        (self.data_dir / "keys" / "first-key").write_text(f"{self.key}\n")
        addresses = (f"127.0.0.1:{self.http.port}", f"127.0.0.1:{self.https.port}")
        Serving(os.getpid(), *addresses, self.gateways[0].ca, True).save(self.data_dir)

    def _keep_up(self) -> None:
        """Start again what has ended."""
        while not self._stopping:
            for part in self.parts:
                code = part.process.poll()
                if code is not None and not self._stopping:
                    print(f"{part.name} ended with {code} and is started again", flush=True)
                    part.start()
            time.sleep(0.5)

    def _until(self, condition, part: Part) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + START_WITHIN_S
        while not condition():
            if part.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{part.name} did not start:\n{part.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def describe(self) -> str:
        """Return what somebody needs who wants to use it."""
        assert self.postgres is not None
        address = f"https://127.0.0.1:{self.https.port}  http://127.0.0.1:{self.http.port}"
        gateways = "  ".join(f"http://{one.http}" for one in self.gateways)
        workers = ", ".join(p.name for p in self.parts if p.name.startswith(("prior", "decode")))
        return "\n".join(
            (
                f"  address     {address}   (a balancer before both gateways)",
                f"  gateways    {gateways}",
                f"  workers     {workers}",
                f"  key         {self.key}",
                f"  CA          {self.gateways[0].ca}",
                f"  PostgreSQL  {self.postgres.address}",
                f"  bucket      {self._shared['GLMIMAGE_FILES_URL']}   (moto)",
                f"  logs        {self.folder}/*.log",
                "Scripts written for fal talk to it when they are started so:",
                f"  GLMIMAGE_DATA_DIR={self.data_dir} glmimage exec -- python examples/poster.py",
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--prior", type=int, default=1, help="workers of the prior stage")
    parser.add_argument("--decode", type=int, default=2, help="workers of the decode stage")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop_or_leave(stop))
    print("Starting PostgreSQL, an S3 server, two gateways and the workers.", flush=True)
    cluster = Cluster(options.model, options.prior, options.decode)
    try:
        print(cluster.describe(), flush=True)
        cluster.wait_until_ready()
        print("Ready. Ctrl-C stops everything and removes it.", flush=True)
        stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        print("Stopping.", flush=True)
        cluster.stop()
    return 0


def stop_or_leave(stop: threading.Event) -> None:
    """Interrupt whatever the main thread does; while it stops, a second signal changes nothing."""
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
