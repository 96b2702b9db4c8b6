"""Pieces that the OpenAPI documents share: error forms, answers, parameters."""

from __future__ import annotations

from typing import Any

_STRING = {"type": "string"}
_PLACE = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}

ERROR_SCHEMAS: dict[str, Any] = {
    "ErrorDetail": {
        "type": "object",
        "required": ["loc", "msg", "type", "url"],
        "properties": {
            "loc": _PLACE,
            "msg": _STRING,
            "type": _STRING,
            "url": _STRING,
            "ctx": {"type": "object"},
            "input": {},
        },
    },
    "ModelError": {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}}
        },
    },
    "RequestError": {
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": _STRING, "error_type": _STRING},
    },
    "NotFound": {
        "type": "object",
        "properties": {"status": {"type": "string", "enum": ["NOT_FOUND"]}, "detail": _STRING},
    },
    "Submitted": {
        "type": "object",
        "required": ["status", "request_id", "response_url", "status_url", "cancel_url"],
        "properties": {
            "status": {"type": "string", "enum": ["IN_QUEUE"]},
            "request_id": _STRING,
            "response_url": _STRING,
            "status_url": _STRING,
            "cancel_url": _STRING,
            "logs": {"nullable": True, "type": "array", "items": {"type": "object"}},
            "metrics": {"type": "object"},
            "queue_position": {"type": "integer"},
        },
    },
    "QueueStatus": {
        "type": "object",
        "required": ["status", "request_id", "response_url"],
        "properties": {
            "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
            "request_id": _STRING,
            "response_url": _STRING,
            "status_url": _STRING,
            "cancel_url": _STRING,
            "queue_position": {"type": "integer"},
            "logs": {"nullable": True, "type": "array", "items": {"type": "object"}},
            "metrics": {"type": "object"},
            "error": _STRING,
            "error_type": _STRING,
        },
    },
    "CancelAnswer": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"type": "string", "enum": ["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]}
        },
    },
}

_PROBLEMS = {
    "400": ("The request cannot be understood, or comes too early.", "RequestError"),
    "401": ("The key is missing or wrong.", "RequestError"),
    "404": ("There is no such thing.", "NotFound"),
    "413": ("The body is too large.", "RequestError"),
    "429": ("Too many requests; try again.", "RequestError"),
    "499": ("It was cancelled.", "RequestError"),
    "503": ("Nobody can take it now; try again.", "RequestError"),
}
_WORK_PROBLEMS = {
    "422": "The input is wrong, or refused by the content policy; do not try again.",
    "500": "The work failed; it may be tried again.",
    "504": "It was not begun in time, or took too long.",
}


def reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def json_answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def json_body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": reference(name)}}}


def problem(*statuses: str) -> dict[str, Any]:
    """Return the answers for these failures."""
    answers = {}
    for status in statuses:
        if status in _PROBLEMS:
            description, name = _PROBLEMS[status]
            answers[status] = json_answer(description, reference(name))
        else:
            either = {"anyOf": [reference("ModelError"), reference("RequestError")]}
            answers[status] = json_answer(_WORK_PROBLEMS[status], either)
    return answers


def request_id_parameter() -> dict[str, Any]:
    return {
        "name": "request_id",
        "in": "path",
        "required": True,
        "description": "The id that the submit answered.",
        "schema": {"type": "string", "minLength": 1},
    }


def submit_parameters() -> list[dict[str, Any]]:
    return [
        {
            "name": "fal_webhook",
            "in": "query",
            "required": False,
            "description": "Where the answer is posted to.",
            "schema": {"type": "string", "format": "uri"},
        },
        {
            "name": "fal_max_queue_length",
            "in": "query",
            "required": False,
            "description": "Answer 429 when more requests wait already.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 999999999},
        },
    ]
