"""Which names the model answers to."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...config import Settings
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .errors import ApiError

MODEL = "glm-image"
RELEASED = 1768348800  # 2026-01-14, when GLM-Image was published
OWNER = "zai-org"


def model_names(settings: Settings) -> list[str]:
    """Return the names that a request may give: ours, what is loaded, the operator's aliases."""
    aliases = [name.strip() for name in settings.model_aliases.split(",")]
    return list(dict.fromkeys(name for name in (MODEL, settings.model, *aliases) if name))


def check_model(settings: Settings, name: str) -> None:
    """Raise ApiError for a model that is not served."""
    names = model_names(settings)
    if name not in names:
        message = f"The model '{name[:80]}' does not exist. Served are: {', '.join(names)}."
        raise ApiError(404, message, "model_not_found", "model")


async def list_models(services: Services, request: Request) -> Response:
    """Answer all names."""
    names = model_names(services.settings)
    return JsonResponse({"object": "list", "data": [_described(name) for name in names]})


async def one_model(services: Services, request: Request) -> Response:
    """Answer one name."""
    name = request.path_params["model"]
    check_model(services.settings, name)
    return JsonResponse(_described(name))


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": RELEASED, "owned_by": OWNER}


ROUTES = [
    Route("openai", "GET", "/models", list_models),
    Route("openai", "GET", "/models/{model:path}", one_model),
]
