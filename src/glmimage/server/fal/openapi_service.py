"""The OpenAPI documents of the services beside the endpoints: rest and platform."""

from __future__ import annotations

from typing import Any

from ..storage_settings import MAX_SECONDS
from .openapi_shapes import ERROR_SCHEMAS, json_answer, problem, request_id_parameter
from .schemas import INPUTS
from .tokens import TokenRequest

_OBJECT = {"type": "object"}
_ENDPOINT = {"type": "string", "enum": list(INPUTS)}
_TIME = {"type": "string", "format": "date-time"}
_SETTINGS_PROBLEMS = ("400", "401", "413", "422")


def rest_document() -> dict[str, Any]:
    """Describe tokens and uploads."""
    token = TokenRequest.model_json_schema(by_alias=False)
    token["properties"]["token_expiration"].pop("title", None)
    upload = {
        "type": "object",
        "properties": {
            "file_name": {"type": "string", "nullable": True},
            "content_type": {"type": "string", "nullable": True},
        },
    }
    address = {
        "type": "object",
        "required": ["upload_url", "file_url"],
        "properties": {"upload_url": {"type": "string"}, "file_url": {"type": "string"}},
    }
    kind = _parameter(
        "storage_type", {"type": "string", "enum": ["", "fal-cdn-v3", "fal-cdn", "gcs"]}
    )
    initiate = _operation(
        "Get an address to upload a file to.", [kind], upload, address, "400", "401", "413", "422"
    )
    return _document(
        "Storage and tokens",
        {
            "/tokens/": {
                "post": _operation(
                    "Make a short-lived token for sockets and streams.",
                    [],
                    token,
                    {"type": "string"},
                    *("401", "413", "422"),
                )
            },
            "/storage/auth/token": {
                "post": _operation(
                    "Make a token for the file service.", [kind], None, _OBJECT, "400", "401"
                )
            },
            "/storage/upload/initiate": {"post": initiate},
            "/storage/upload/initiate-multipart": {"post": initiate},
            "/.well-known/jwks.json": {
                "get": {
                    **_operation("The key that webhooks are signed with.", [], None, _OBJECT),
                    "security": [],
                }
            },
        },
    )


def platform_document() -> dict[str, Any]:
    """Describe models, prices, usage and requests."""
    endpoint = _parameter("endpoint_id", _ENDPOINT)
    times = [_parameter("start", _TIME), _parameter("end", _TIME)]
    pages = [
        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
        _parameter("cursor", {"type": "string", "enum": ["MA=="]}),
    ]
    listing = [
        *times,
        *pages,
        _parameter("status", {"type": "string", "enum": ["success", "error", "user_error"]}),
        _parameter("expand", {"type": "string", "enum": ["payloads"]}),
        _parameter("sort_by", {"type": "string", "enum": ["ended_at", "duration"]}),
        _parameter("request_id", {"type": "string"}),
    ]
    quantities = {
        "type": "object",
        "required": ["unit_quantity"],
        "properties": {"unit_quantity": {"type": "number", "minimum": 0, "maximum": 1e9}},
    }
    estimate = {
        "type": "object",
        "required": ["estimate_type", "endpoints"],
        "properties": {
            "estimate_type": {"type": "string", "enum": ["unit_price"]},
            "endpoints": {
                "type": "object",
                "minProperties": 1,
                "properties": dict.fromkeys(INPUTS, quantities),
                "additionalProperties": False,
            },
        },
    }
    frame = _parameter("timeframe", {"type": "string", "enum": ["minute", "hour", "day", "week"]})
    parts = _parameter("expand", {"type": "string", "enum": ["time_series", "summary"]})
    openapi = _parameter("expand", {"type": "string", "enum": ["openapi-3.0"]})

    def get(summary: str, *parameters: dict[str, Any]) -> dict[str, Any]:
        return {"get": _operation(summary, list(parameters), None, _OBJECT, "400", "401")}

    required = {**endpoint, "required": True}
    delete = _operation(
        "Delete input, answer and pictures of a request.",
        [request_id_parameter()],
        None,
        _OBJECT,
        *("401", "404"),
    )
    delete["responses"]["409"] = json_answer("It has not ended.", _OBJECT)
    return _document(
        "Platform",
        {
            "/v1/models": get("List the endpoints.", endpoint, openapi),
            "/v1/models/pricing": get("List prices.", endpoint),
            "/v1/models/pricing/estimate": {
                "post": _operation(
                    "Estimate a cost.", [], estimate, _OBJECT, "400", "401", "413", "422"
                )
            },
            "/v1/models/usage": get("Sum up usage.", endpoint, *times, frame, parts),
            "/v1/models/billing-events": get(
                "List what requests have cost.",
                *(endpoint, *times, *pages, _parameter("request_id", {"type": "string"})),
            ),
            "/v1/models/requests/by-endpoint": get(
                "List an endpoint's requests.", required, *listing
            ),
            "/v1/models/requests/search": get("List requests.", endpoint, *listing),
            "/v1/models/requests/{request_id}/payloads": {"delete": delete},
            **_storage_paths(),
            "/v1/webhooks": get(
                "List webhook deliveries.",
                *(pages[0], _parameter("request_id", {"type": "string"})),
            ),
            "/v1/meta": get("Tell from where webhooks come."),
        },
    )


def _storage_paths() -> dict[str, Any]:
    url = {**_parameter("url", {"type": "string", "format": "uri"}), "required": True}
    decision = {"type": "string", "enum": ["allow", "forbid", "hide"]}
    rule = {
        "type": "object",
        "required": ["user", "decision"],
        "properties": {"user": {"type": "string"}, "decision": decision},
    }
    rules = {"type": "array", "items": rule, "nullable": True}
    acl = {
        "type": "object",
        "required": ["default"],
        "properties": {"default": decision, "rules": rules},
    }
    lifetime = {"type": "integer", "minimum": 1, "maximum": 604800}
    problems = ("400", "401", "404")
    put = _operation("Replace who may read a file.", [url], acl, acl, *problems, *("413", "422"))
    sign = _operation(
        "Make an address at which anybody may read a file, for a while.",
        [url],
        {"type": "object", "properties": {"expiration_seconds": lifetime}},
        {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}},
        *problems,
        *("413", "422"),
    )
    get = _operation("Tell who may read a file.", [url], None, acl, *problems)
    settings = {
        "type": "object",
        "properties": {
            "expiration_duration_seconds": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_SECONDS,
                "nullable": True,
            },
            "initial_acl": {
                "type": "object",
                "nullable": True,
                "properties": acl["properties"],
            },
        },
    }
    read = _operation("Tell how a key's new files are kept.", [], None, settings, "401")
    keep = _operation(
        "Replace how a key's new files are kept.", [], settings, settings, *_SETTINGS_PROBLEMS
    )
    return {
        "/v1/storage/settings": {"get": read, "put": keep},
        "/v1/storage/files/acl": {"get": get, "put": put},
        "/v1/storage/files/sign": {"post": sign},
    }


def _document(title: str, paths: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.0.4",
        "info": {"title": title, "version": "1.0.0"},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization"}
            },
            "schemas": ERROR_SCHEMAS,
        },
        "security": [{"apiKeyAuth": []}],
    }


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _operation(
    summary: str,
    parameters: list[dict[str, Any]],
    body: dict[str, Any] | None,
    answer: dict[str, Any],
    *problems: str,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": json_answer("The answer.", answer), **problem(*problems)},
    }
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
