"""Is the server up, and can it paint?"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..jobs import StoreUnavailable
from .responses import JsonResponse
from .routing import Route
from .services import Services


async def live(services: Services, request: Request) -> Response:
    """Answer as long as the process does."""
    return JsonResponse({"status": "ok"})


async def ready(services: Services, request: Request) -> Response:
    """Answer 200 when a worker is there and its model is loaded, else 503 with the reason."""
    try:
        workers = await services.capacity.workers()
    except StoreUnavailable as error:
        return _not_ready(f"The job store does not answer. {error}")
    loaded = [worker for worker in workers if worker.ready]
    if not workers:
        return _not_ready("No worker is alive. Start one with `glmimage worker`.")
    if not loaded:
        return _not_ready("The workers are still loading the model.")
    return JsonResponse(
        {
            "status": "ok",
            "workers": len(loaded),
            "models": sorted({worker.model for worker in loaded}),
            "queue_length": services.live.queue_length(),
        }
    )


def _not_ready(reason: str) -> Response:
    return JsonResponse({"status": "unavailable", "reason": reason}, 503, {"Retry-After": "5"})


ROUTES = [
    Route("", "GET", "/health/live", live, needs_key=False),
    Route("", "GET", "/health/ready", ready, needs_key=False),
]
