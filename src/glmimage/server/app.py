"""The ASGI application: finds surface and route, checks the key, answers every failure in form."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ..config import Settings
from ..errors import GlmImageError
from ..files import FileStore
from ..jobs import JobStore
from ..policy.policy import Policy
from ..telemetry.logs import about_request
from . import file_access, health, metrics, operator, platform, proxy, storage_settings
from .access_log import note_answer
from .background import Background
from .cors import Cors
from .fal import cdn, openapi, queue, realtime, run, storage, stream, tokens
from .fal.errors import RequestError, WireError, error_headers
from .fal.schemas import APP
from .fal.tokens import key_of_token
from .openai import errors as openai_errors
from .openai import images, models, zai
from .playground import files as playground
from .preparation import prepare_jobs
from .responses import JsonResponse, error_response
from .routing import Handler, Route, Router, SocketHandler, locate
from .services import Services
from .sweeper import Sweeper
from .webhooks import WebhookSender

POLICY_VIOLATION = 1008
log = logging.getLogger(__name__)

ROUTES: list[Route] = [
    *queue.ROUTES,
    *run.ROUTES,
    *stream.ROUTES,
    *realtime.ROUTES,
    *tokens.ROUTES,
    *storage.STORAGE_ROUTES,
    *cdn.CDN_ROUTES,
    *openapi.ROUTES,
    *images.ROUTES,
    *models.ROUTES,
    *zai.ROUTES,
    *platform.ROUTES,
    *operator.ROUTES,
    *playground.ROUTES,
    *file_access.ROUTES,
    *storage_settings.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
]
FORMS: dict[str, Callable[[WireError, Scope], Response]] = {
    "openai": openai_errors.error_response,
    "zai": zai.error_response,
}
"""How a surface tells a failure, when it is not in fal's form."""


def build_app(settings: Settings, store: JobStore, files: FileStore, policy: Policy) -> Application:
    """Put the server together. It belongs to the event loop that `store` was opened in."""
    return Application(Services(settings, store, files, policy))


async def follow_jobs(services: Services) -> None:
    """Keep the picture of the live jobs fresh."""
    await services.live.follow()


class Application:
    """Answer http and websocket scopes; `running()` or the lifespan keeps the rest going."""

    def __init__(self, services: Services) -> None:
        self.services = services
        metrics.start_counting(services)
        self._router = Router(ROUTES)
        self._cors = Cors(services.settings)
        self.sweeper = Sweeper(services)
        self.webhooks = WebhookSender(services)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Application]:
        """Run what goes on beside the requests."""
        background = Background(self.services, [follow_jobs, prepare_jobs])
        async with AsyncExitStack() as stack:
            stack.callback(self.services.tracer.close)
            for part in (background, self.sweeper, self.webhooks):
                part.start()
                stack.push_async_callback(part.stop)
            await self.services.live.loaded()
            yield self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        preflight = self._cors.preflight(scope)
        if preflight is not None:
            await send({"type": "http.response.start", "status": 204, "headers": preflight})
            await send({"type": "http.response.body", "body": b""})
            return
        scope["request_id"] = str(uuid.uuid4())
        about_request(scope["request_id"])
        reply = _Reply(scope, send, self._cors)
        try:
            response = await self._answer(scope, receive)
            await response(reply.scope, receive, reply.send)
        except asyncio.CancelledError:
            if not reply.started:  # the server stops, and this answer will not come
                await _refusal(scope, _stopping())(reply.scope, receive, reply.send)
            raise
        except Exception as error:
            if reply.started:
                log.exception("%s %s broke off", scope["method"], scope["path"])
                raise
            await _refusal(scope, error)(reply.scope, receive, reply.send)
        finally:
            note_answer(self.services, scope, reply.status, reply.seconds)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if proxy.is_proxy(scope):
            return await self._proxied(scope, receive)
        request = Request(scope, receive)
        route = await self._route(request, scope["method"])
        return await cast(Handler, route.handler)(self.services, request)

    async def _proxied(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] not in proxy.METHODS:
            raise WireError(
                405, {"detail": "Method Not Allowed"}, {"Allow": ", ".join(proxy.METHODS)}
            )
        try:
            inner = proxy.inner_scope(scope, self.services.addresses.own)
        except proxy.InvalidTarget as error:
            return JsonResponse(proxy.INVALID, 400, error_headers(400, error.body))
        inner["open_to_all"] = self.services.settings.open_proxy
        try:
            request = Request(inner, receive)
            route = await self._route(request, scope["method"])
            return await cast(Handler, route.handler)(self.services, request)
        finally:
            scope["request_id"], scope["surface"] = inner["request_id"], inner.get("surface")

    async def _route(self, connection: Request | WebSocket, method: str) -> Route:
        """Find the route and check the key, in the order that tells strangers nothing."""
        scope = connection.scope
        surface, path = locate(connection.headers.get("host", ""), scope["path"])
        scope["surface"] = surface
        found = self._router.find(surface, method, path)
        route = found.route
        if route is None or route.needs_key:
            await self._check_key(connection, route)
        if route is None:
            if found.allowed:
                raise WireError(
                    405, {"detail": "Method Not Allowed"}, {"Allow": ", ".join(found.allowed)}
                )
            raise WireError(404, {"detail": _not_found(surface, path)})
        scope["route"], scope["path_params"] = route, found.path_params
        if "request_id" in found.path_params:
            about_request(found.path_params["request_id"])
        return route

    async def _check_key(self, connection: Request | WebSocket, route: Route | None) -> None:
        scope = connection.scope
        token = connection.query_params.get("fal_jwt_token")
        if token and route is not None and route.takes_token:
            scope["api_key"] = await key_of_token(self.services, token)
            return
        anonymous = "authorization" not in connection.headers
        if anonymous and scope.get("open_to_all"):
            return
        scope["api_key"] = await self.services.keys.check(connection)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["request_id"] = str(uuid.uuid4())
        about_request(scope["request_id"])
        socket = WebSocket(scope, receive, send)
        try:
            route = await self._route(socket, "WEBSOCKET")
            await cast(SocketHandler, route.handler)(self.services, socket)
        except Exception as error:
            wire = _wire_error(scope, error)
            await socket.close(POLICY_VIOLATION, str(wire.body.get("detail"))[:120])

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except GlmImageError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


class _Reply:
    """Complete every answer: request id, CORS; no body for HEAD."""

    def __init__(self, scope: Scope, send: Send, cors: Cors) -> None:
        self.scope, self._send, self._cors = scope, send, cors
        self._head = scope["method"] == "HEAD"
        self.started = False
        self.status = 0
        self.seconds = 0.0
        self._began = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            self.seconds = time.perf_counter() - self._began
            headers = [*message["headers"], *self._cors.headers(self.scope)]
            if not any(name == b"x-fal-request-id" for name, _ in headers):
                headers.append((b"x-fal-request-id", self.scope["request_id"].encode()))
            message = {**message, "headers": headers}
        elif self._head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def _refusal(scope: Scope, error: Exception) -> Response:
    """Answer a failure in the form of the surface that was called."""
    wire = _wire_error(scope, error)
    host = Headers(scope=scope).get("host", "")
    form = FORMS.get(locate(host, scope["path"])[0])
    return error_response(wire) if form is None else form(wire, scope)


def _wire_error(scope: Scope, error: Exception) -> WireError:
    """Give any failure its place on the wire; what nobody foresaw is logged and says nothing."""
    if isinstance(error, WireError):
        return error
    if isinstance(error, GlmImageError):
        log.error("%s: %s: %s %s", scope["path"], error.code, error.message, error.hint)
        return RequestError(
            "runner_connection_error",
            "The server's storage does not answer now. Try again.",
            headers={"Retry-After": "5"},
        )
    log.error("%s failed", scope["path"], exc_info=error)
    return RequestError("internal_error", "The request failed inside the server.")


def _stopping() -> RequestError:
    return RequestError(
        "runner_disconnected",
        "The server was stopped before the request ended. Try again.",
        headers={"Retry-After": "5"},
    )


def _not_found(surface: str, path: str) -> str:
    if surface in ("queue", "run"):
        parts = path.strip("/").split("/")
        app = "/".join(parts[:2])
        if app == APP:
            return f"Path '{'/'.join(parts)[:100]}' not found"
        return f"Application '{app[:100]}' not found"
    if surface == "":
        return (
            "Path not found. fal's API is below /queue, /run, /rest, /cdn and /platform here, "
            "or told by the Host header; OpenAI's is below /v1."
        )
    return "Path not found"
