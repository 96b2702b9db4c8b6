"""One process that serves http and https, with its workers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
import uvloop

from ..config import Settings
from ..errors import InvalidSettings
from ..files import open_file_store
from ..jobs import JobStore, StoreUnavailable
from ..lora import check_lora_dir
from .guard import policy_from_settings
from .serving import Serving, find_serving, make_data_folder, make_first_key, reachable
from .supervisor import WorkerRefused, WorkerSupervisor
from .tls import prepare_tls

log = logging.getLogger(__name__)

BACKLOG = 2048
CLOSE_CONNECTIONS_S = 3.0
"""How long answers that are under way get when the server stops."""
RENEWAL_CHECK_S = 12 * 3600.0
READY_CHECK_S = 0.25
WORKER_SEEN_S = 30.0


@dataclass(frozen=True)
class Started:
    """Tell the command line what to print; `new_key` is the first key's text, once."""

    settings: Settings
    serving: Serving
    new_key: str | None


@dataclass(frozen=True)
class Callbacks:
    """What the command line wants to hear: listening, model loaded, stopping."""

    started: Callable[[Started], None]
    ready: Callable[[float], None]
    stopping: Callable[[], None]


def run_service(settings: Settings, worker_command: Sequence[str], tell: Callbacks) -> int:
    """Serve until a signal; return the exit code. Raises InvalidSettings before anything runs."""
    refuse_open_doors(settings)
    check_lora_dir(settings.lora_dir)
    make_data_folder(settings.data_dir)
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(bind(settings.host, settings.http_port, "http"))
        https = stack.enter_context(bind(settings.host, settings.https_port, "https"))
        settings = settings.model_copy(
            update={"http_port": http.getsockname()[1], "https_port": https.getsockname()[1]}
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, http, https, worker_command, tell))


async def _serve(
    settings: Settings,
    http: socket.socket,
    https: socket.socket,
    worker_command: Sequence[str],
    tell: Callbacks,
) -> int:
    began = time.monotonic()
    supervisors = [
        WorkerSupervisor(worker_command, grace_s=settings.stop_timeout_s + 5)
        for _ in range(settings.workers)
    ]
    stop = _stop_on_signals(supervisors)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            await JobStore.open(settings.store_url, direct_url=settings.database_direct_url)
        )
        new_key = await make_first_key(store, settings.data_dir) if settings.auth else None
        context = _Certificate(settings)
        serving = Serving(
            os.getpid(),
            reachable(settings, settings.http_port),
            reachable(settings, settings.https_port),
            None if context.files.ca is None else str(context.files.ca),
            settings.auth,
        )
        app = await stack.enter_async_context(_application(settings, store))
        await stack.enter_async_context(_listening(app, http, None))
        await stack.enter_async_context(_listening(app, https, context.context))
        former = find_serving(settings.data_dir)
        serving.save(settings.data_dir)
        stack.callback(serving.remove, settings.data_dir, former)
        tell.started(Started(settings, serving, new_key))
        tasks = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
        side_tasks = [asyncio.create_task(context.renew_in_time())]
        if supervisors:
            side_tasks.append(asyncio.create_task(_tell_ready(store, began, tell)))
        try:
            refused = await _wait(stop, tasks)
        finally:
            for task in side_tasks:
                task.cancel()
            tell.stopping()
            await asyncio.gather(*(supervisor.stop() for supervisor in supervisors))
            await asyncio.gather(*tasks, *side_tasks, return_exceptions=True)
    return 2 if refused else 0


async def _wait(stop: asyncio.Event, workers: Sequence[asyncio.Task[None]]) -> bool:
    """Return when asked to stop, or True when a worker refuses to start."""
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    errors = [task.exception() for task in done if task is not stopped]
    for error in errors:
        if error is not None and not isinstance(error, WorkerRefused):
            raise error
    return any(errors)


def _stop_on_signals(supervisors: Sequence[WorkerSupervisor]) -> asyncio.Event:
    """Return an event that the first signal sets; the second one no longer waits for work."""
    stop = asyncio.Event()

    def handle() -> None:
        if stop.is_set():
            for supervisor in supervisors:
                supervisor.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            asyncio.get_running_loop().add_signal_handler(number, handle)
    return stop


@contextlib.asynccontextmanager
async def _application(settings: Settings, store: JobStore) -> AsyncIterator[object]:
    from .app import build_app

    files = open_file_store(settings.files_address)
    policy = policy_from_settings(settings)
    app = build_app(settings, store, files, policy)
    try:
        async with app.running():
            yield app
    finally:
        await policy.close()
        await files.close()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextlib.asynccontextmanager
async def _listening(
    app: object, listener: socket.socket, context: ssl.SSLContext | None
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=64 * 1024 * 1024,
        lifespan="off",  # two servers, one application: its life is ours to begin and end
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(CLOSE_CONNECTIONS_S),
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.wait(
        [task, waiting := asyncio.create_task(server.listening.wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    waiting.cancel()
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Certificate:
    """Hold the TLS context; a renewed certificate is used for connections from then on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.files = prepare_tls(settings)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(self.files.cert, self.files.key)

    async def renew_in_time(self) -> None:
        """Look twice a day, for as long as the server runs."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK_S)
            try:
                files = await asyncio.to_thread(prepare_tls, self._settings)
                self.context.load_cert_chain(files.cert, files.key)
            except (InvalidSettings, OSError):
                log.exception("The certificate could not be renewed; the old one is used on.")


async def _tell_ready(store: JobStore, began: float, tell: Callbacks) -> None:
    """Wait for the first worker whose model is loaded, also while the store is away."""
    ready = False
    while not ready:
        await asyncio.sleep(READY_CHECK_S)
        with contextlib.suppress(StoreUnavailable):
            workers = await store.live_workers(await store.now() - WORKER_SEEN_S)
            ready = any(worker.ready for worker in workers)
    tell.ready(time.monotonic() - began)


def refuse_open_doors(settings: Settings) -> None:
    if settings.auth:
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not loopback:
        raise InvalidSettings(
            f"Without keys the server may listen on loopback only, not on '{settings.host}'.",
            hint="Leave --no-auth away, or use --host 127.0.0.1.",
        )


def bind(host: str, port: int, scheme: str) -> socket.socket:
    """Listen; raise InvalidSettings that names the port and what to do."""
    option = f"--{scheme}-port"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise InvalidSettings(f"GLMIMAGE_HOST is '{host}'; there is no such address.") from None
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InvalidSettings(
                f"Port {port} on {host} is in use by another program.",
                hint=f"End it, or choose another port with {option} (0 takes any free one).",
            ) from None
        raise InvalidSettings(
            f"The server cannot listen on {host}, port {port}: {error.strerror}.",
            hint=f"Choose others with --host and {option}.",
        ) from None
    listener.setblocking(False)
    return listener
