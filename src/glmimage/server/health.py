"""Is this process up, and can the deployment paint?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..jobs import StoreUnavailable
from .responses import JsonResponse
from .routing import Route
from .services import Services

CHECK_S = 5.0
STAGES = ("prior", "decode")
Check = Callable[[Services], Awaitable[str | None]]


async def live(services: Services, request: Request) -> Response:
    """Answer as long as the process does."""
    return JsonResponse({"status": "ok"})


async def ready(services: Services, request: Request) -> Response:
    """Answer 200 when pictures can be made, else 503 with each reason why not.

    ?of=gateway asks about this process and its stores only, for load balancers: requests may be
    taken while no worker is there.
    """
    of = request.query_params.get("of", "deployment")
    if of not in ("deployment", "gateway"):
        return JsonResponse({"detail": "`of` must be deployment or gateway"}, 400)
    checks: dict[str, Check] = {"database": _database, "files": _files}
    if of == "deployment":
        checks["workers"] = _workers
    found = await asyncio.gather(*(_in_time(check, services) for check in checks.values()))
    told = {name: reason or "ok" for name, reason in zip(checks, found, strict=True)}
    reasons = [reason for reason in found if reason]
    body: dict[str, Any] = {"status": "unavailable" if reasons else "ok", "checks": told}
    if reasons:
        body["reason"] = " ".join(reasons)
        return JsonResponse(body, 503, {"Retry-After": "5"})
    workers = [worker for worker in await services.capacity.workers() if worker.ready]
    return JsonResponse(
        {
            **body,
            "workers": len(workers),
            "models": sorted({worker.model for worker in workers}),
            "queue_length": services.live.queue_length(),
        }
    )


async def _in_time(check: Check, services: Services) -> str | None:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check(services)
    except TimeoutError:
        return f"{check.__name__.strip('_').capitalize()}: no answer within {CHECK_S:g} s."


async def _database(services: Services) -> str | None:
    try:
        await services.store.next_webhook_at()
    except StoreUnavailable as error:
        return f"The job store does not answer. {error}"
    return None


async def _files(services: Services) -> str | None:
    return await services.storage_check.reason()


async def _workers(services: Services) -> str | None:
    """Each stage needs a worker whose model is loaded."""
    try:
        workers = await services.capacity.workers()
    except StoreUnavailable:
        return None  # the check of the database says so
    if not workers:
        return "No worker is alive. Start one with `glmimage worker`."
    missing = []
    for stage in STAGES:
        taking = [worker for worker in workers if stage in worker.stages]
        if not taking:
            missing.append(f"No worker takes the {stage} stage.")
        elif not any(worker.ready for worker in taking):
            missing.append("The workers are still loading the model.")
    return " ".join(dict.fromkeys(missing)) or None


ROUTES = [
    Route("", "GET", "/health/live", live, needs_key=False),
    Route("", "GET", "/health/ready", ready, needs_key=False),
]
