"""An input in the address: what fal's JavaScript client sends with `method: "get"`."""

from __future__ import annotations

import re
from typing import Any

import pydantic_core
from starlette.requests import Request

# the client joins a list with commas, which URLs may hold as well
_BETWEEN_URLS = re.compile(r",(?=https?://|data:)", re.IGNORECASE)


def query_input(request: Request) -> dict[str, Any]:
    """Return the query's parameters as an input; its values are texts, which validation reads.

    A parameter that is repeated is a list; those of the protocol (`fal_...`) are no part of it.
    """
    found: dict[str, Any] = {}
    for name in request.query_params:
        if name.startswith("fal_"):
            continue
        values = request.query_params.getlist(name)
        text = values[0]
        if name == "image_urls":
            found[name] = [url for value in values for url in _BETWEEN_URLS.split(value)]
        elif len(values) > 1:
            found[name] = values
        elif name == "image_size":
            found[name] = _size(text)
        elif name == "prompt" or not _is_nothing(name, text):
            found[name] = text
    return found


def _is_nothing(name: str, text: str) -> bool:
    """Say whether the client means a value that it does not have."""
    return text == "undefined" or (name == "seed" and text == "null")


def _size(text: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
