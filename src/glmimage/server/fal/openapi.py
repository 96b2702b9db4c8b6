"""The OpenAPI documents, one a surface and endpoint, in the form fal publishes (spec 6.4)."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from ...types import SIZE_PRESETS
from ..responses import JsonResponse
from ..routing import Route
from ..services import Services
from .errors import RequestError, WireError
from .openapi_service import platform_document, rest_document
from .openapi_shapes import (
    ERROR_SCHEMAS,
    json_answer,
    json_body,
    problem,
    reference,
    request_id_parameter,
    submit_parameters,
)
from .schemas import IMAGE_TO_IMAGE, INPUTS, TEXT_TO_IMAGE, Output

TITLES = {
    TEXT_TO_IMAGE: ("GLM-Image", "text-to-image", "GlmImage"),
    IMAGE_TO_IMAGE: ("GLM-Image, image to image", "image-to-image", "GlmImageImageToImage"),
}
SURFACES = ("queue", "run", "rest", "platform")


async def openapi_document(services: Services, request: Request) -> Response:
    """Answer the document of a surface; of queue and run, that of an endpoint."""
    surface = request.path_params["surface"]
    if surface not in SURFACES:
        raise WireError(404, {"detail": f"There is a document for each of {', '.join(SURFACES)}."})
    endpoint = request.query_params.get("endpoint_id", TEXT_TO_IMAGE)
    if endpoint not in INPUTS:
        raise RequestError("bad_request", f"endpoint_id must be one of {', '.join(INPUTS)}.")
    origin = services.addresses.origin(request)
    return JsonResponse(
        {**document(surface, endpoint), "servers": [{"url": f"{origin}/{surface}"}]}
    )


async def platform_openapi(services: Services, request: Request) -> Response:
    """Answer the platform API's own document at fal's place for it, in OpenAPI 3.1."""
    servers = [{"url": f"{services.addresses.origin(request)}/platform"}]
    return JsonResponse({**_newer_dialect(document("platform")), "servers": servers})


@cache
def document(surface: str, endpoint: str = TEXT_TO_IMAGE) -> dict[str, Any]:
    """Return a surface's document, without `servers`."""
    if surface == "rest":
        return rest_document()
    if surface == "platform":
        return platform_document()
    title, category, name = TITLES[endpoint]
    paths = _queue_paths(endpoint, name) if surface == "queue" else _run_paths(endpoint, name)
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"{surface.capitalize()} OpenAPI for {endpoint}",
            "version": "1.0.0",
            "description": f"{title}, as fal serves it.",
            "x-fal-metadata": {
                "endpointId": endpoint,
                "category": category,
                "documentationUrl": f"https://fal.ai/models/{endpoint}/api",
                "playgroundUrl": f"https://fal.ai/models/{endpoint}",
            },
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Key <your key>`",
                }
            },
            "schemas": {
                **ERROR_SCHEMAS,
                **_schemas(f"{name}Input", INPUTS[endpoint]),
                **_schemas(f"{name}Output", Output),
            },
        },
        "security": [{"apiKeyAuth": []}],
    }


def _queue_paths(endpoint: str, name: str) -> dict[str, Any]:
    one = f"/{endpoint}/requests/{{request_id}}"
    waiting = json_answer("What became of it so far.", reference("QueueStatus"))
    return {
        f"/{endpoint}": {
            "post": {
                "operationId": "submit",
                "summary": "Put a request into the queue.",
                "parameters": submit_parameters(),
                "requestBody": json_body(f"{name}Input"),
                "responses": {
                    "200": json_answer("The request is taken.", reference("Submitted")),
                    **problem("400", "401", "413", "422", "429", "503"),
                },
            },
            "get": {
                "operationId": "submit_by_address",
                "summary": "Put a request into the queue; the input is in the address.",
                "parameters": [*_query_parameters(endpoint), *submit_parameters()],
                "responses": {
                    "200": json_answer("The request is taken.", reference("Submitted")),
                    **problem("400", "401", "422", "429", "503"),
                },
            },
        },
        f"{one}/status": {
            "get": {
                "operationId": "status",
                "summary": "Ask how far a request is.",
                "parameters": [
                    request_id_parameter(),
                    {
                        "name": "logs",
                        "in": "query",
                        "required": False,
                        "description": "Whether to include the logs (`1`).",
                        "schema": {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
                    },
                ],
                "responses": {"200": waiting, "202": waiting, **problem("400", "401", "404")},
            }
        },
        one: {
            "get": {
                "operationId": "result",
                "summary": "Get the answer of a request.",
                "parameters": [request_id_parameter()],
                "responses": {
                    "200": json_answer("The answer.", reference(f"{name}Output")),
                    **problem("400", "401", "404", "422", "499", "500", "504"),
                },
            }
        },
        f"{one}/cancel": {
            "put": {
                "operationId": "cancel",
                "summary": "Cancel a request.",
                "parameters": [request_id_parameter()],
                "responses": {
                    "202": json_answer("It will not go on.", reference("CancelAnswer")),
                    "400": json_answer("It has ended already.", reference("CancelAnswer")),
                    **problem("401", "404"),
                },
            }
        },
    }


def _run_paths(endpoint: str, name: str) -> dict[str, Any]:
    failures = problem("400", "401", "413", "422", "429", "499", "500", "503", "504")
    return {
        f"/{endpoint}": {
            "post": {
                "operationId": "run",
                "summary": "Do the work while the caller waits.",
                "requestBody": json_body(f"{name}Input"),
                "responses": {
                    "200": json_answer("The answer.", reference(f"{name}Output")),
                    **failures,
                },
            },
            "get": {
                "operationId": "run_by_address",
                "summary": "Do the work while the caller waits; the input is in the address.",
                "parameters": _query_parameters(endpoint),
                "responses": {
                    "200": json_answer("The answer.", reference(f"{name}Output")),
                    **failures,
                },
            },
        },
        f"/{endpoint}/stream": {
            "post": {
                "operationId": "stream",
                "summary": "Send progress as it happens; the last event is the answer.",
                "requestBody": json_body(f"{name}Input"),
                "responses": {
                    "200": {
                        "description": "Events, each a line of JSON.",
                        "content": {"text/event-stream": {"schema": {}}},
                    },
                    **failures,
                },
            }
        },
    }


def _query_parameters(endpoint: str) -> list[dict[str, Any]]:
    """Return the input's fields as an address's parameters: of sizes the presets, no objects."""
    schema = INPUTS[endpoint].model_json_schema()
    found = []
    for name, described in schema["properties"].items():
        if name == "loras":
            continue
        field = _older_dialect(described)
        if name == "image_size":
            field = {"type": "string", "enum": list(SIZE_PRESETS), "default": "square_hd"}
        elif name == "image_urls":
            field = field["anyOf"][0]
        required = name in schema["required"]
        found.append({"name": name, "in": "query", "required": required, "schema": field})
    return found


def _schemas(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema and those it refers to, in the dialect of OpenAPI 3.0."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs", {})
    schema["title"] = name
    return {
        name: _older_dialect(schema),
        **{key: _older_dialect(value) for key, value in nested.items()},
    }


def _older_dialect(value: Any) -> Any:
    """Rewrite what OpenAPI 3.0 does not know: null as a type, examples."""
    if isinstance(value, list):
        return [_older_dialect(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _older_dialect(item) for key, item in value.items()}
    if isinstance(examples := value.get("examples"), list):
        value["example"] = value.pop("examples")[0] if examples else None
    branches = value.get("anyOf", [])
    if {"type": "null"} in branches:
        kept = [branch for branch in branches if branch != {"type": "null"}]
        del value["anyOf"]
        value = {**(kept[0] if len(kept) == 1 else {"anyOf": kept}), **value, "nullable": True}
        if value.get("default", ...) is None:
            del value["default"]
    if "properties" in value:
        value["x-fal-order-properties"] = list(value["properties"])
    return value


def _newer_dialect(value: Any) -> Any:
    """Rewrite what OpenAPI 3.1 says in JSON Schema's own way: null is a type."""
    if isinstance(value, list):
        return [_newer_dialect(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _newer_dialect(item) for key, item in value.items()}
    if value.get("openapi") == "3.0.4":
        value["openapi"] = "3.1.0"
    if value.pop("nullable", False):
        value["type"] = [value["type"], "null"]
    return value


ROUTES = [
    Route("platform", "GET", "/v1/openapi.json", platform_openapi, needs_key=False),
    Route("", "GET", "/api/openapi/{surface}/openapi.json", openapi_document, needs_key=False),
]
