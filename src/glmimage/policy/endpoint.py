"""An OpenAI-compatible endpoint that the operator has configured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2

from ..errors import InvalidSettings
from .errors import ServiceUnavailable

_MAX_ANSWER_BYTES = 1024 * 1024


class Endpoint:
    """Post JSON below a base URL such as https://api.openai.com/v1. timeout_s: for each call."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        timeout_s: float = 20.0,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InvalidSettings(
                f"{base_url!r} is no address of an OpenAI-compatible endpoint.",
                hint="Write it with http:// or https:// and its path, which often ends in /v1.",
            )
        self.model = model
        self._base_url = base_url.rstrip("/") + "/"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer's JSON; raise ServiceUnavailable, which names no key."""
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=self._transport, timeout=self._timeout_s, headers=self._headers
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(self._client, self._base_url + path, body)
        except TimeoutError:
            raise ServiceUnavailable(
                f"The endpoint did not answer within {self._timeout_s:g} seconds."
            ) from None
        except (httpx2.HTTPError, OSError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ServiceUnavailable(f"The endpoint could not be reached: {reason}.") from None

    async def _post(self, client: httpx2.AsyncClient, url: str, body: Mapping[str, Any]) -> Any:
        async with client.stream("POST", url, json=dict(body)) as response:
            if response.status_code != 200:
                raise ServiceUnavailable(
                    f"The endpoint answered with status {response.status_code}."
                )
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MAX_ANSWER_BYTES:
                    raise ServiceUnavailable("The endpoint's answer is too long.")
        try:
            return httpx2.Response(200, content=bytes(content)).json()
        except ValueError:
            raise ServiceUnavailable("The endpoint's answer is not JSON.") from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
