"""Paint by a glmimage server, over fal's queue."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from .painter import Listed, Painted, PaintingFailed, Progress, State, Wish

APP = "fal-ai/glm-image"
ANSWER_WITHIN_S = 60.0
SILENT_FOR_S = 300.0
"""A stream is never silent for so long: the server sends a comment every few seconds."""
PRIOR_SHARE = 0.3
MAX_REMEMBERED = 50
"""Requests of this session: the server itself lists those that have ended."""
UNFINISHED: dict[str, State] = {"IN_QUEUE": "waiting", "IN_PROGRESS": "working"}
_STEP = re.compile(r"(?:picture (\d+)/(\d+): )?step (\d+)/(\d+)")
_PRIOR = re.compile(r"prior (\d+) %")


class RemotePainter:
    """Speak to the server at `url` with `key`. ca: a file of certificates to trust."""

    def __init__(self, url: str, key: str, ca: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._submitted: dict[str, str] = {}
        headers = {"authorization": f"Key {key}"} if key else {}
        verify: Any = True
        if ca is not None:
            import ssl

            verify = ssl.create_default_context(cafile=str(ca))
        # a proxy of the environment has no business between this and its server
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=ANSWER_WITHIN_S,
            verify=verify,
            trust_env=False,
        )

    async def submit(self, wish: Wish) -> str:
        endpoint = f"{APP}/image-to-image" if wish.images else APP
        body: dict[str, Any] = {
            "prompt": wish.prompt,
            "image_size": {"width": wish.width, "height": wish.height},
            "num_inference_steps": wish.num_inference_steps,
            "guidance_scale": wish.guidance_scale,
            "num_images": wish.num_images,
            "output_format": wish.output_format,
            "text_check": wish.text_check,
            "best_of": wish.best_of,
        }
        if wish.seed is not None:
            body["seed"] = wish.seed
        if wish.images:
            body["image_urls"] = list(wish.images)
        answer = await self._call("POST", f"/queue/{endpoint}", json=body)
        request_id = str(answer.json()["request_id"])
        self._submitted[request_id] = wish.prompt
        while len(self._submitted) > MAX_REMEMBERED:
            del self._submitted[next(iter(self._submitted))]
        return request_id

    async def follow(self, request_id: str) -> AsyncIterator[Progress]:
        path = f"/queue/{APP}/requests/{request_id}/status/stream?logs=1"
        timeout = httpx2.Timeout(ANSWER_WITHIN_S, read=SILENT_FOR_S)
        fraction = 0.0
        try:
            async with self._http.stream("GET", path, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise PaintingFailed(_sentence(answer))
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    status = json.loads(line[5:])
                    if status["status"] == "IN_QUEUE":
                        yield Progress(fraction, f"{status['queue_position']} requests are ahead")
                    for entry in status.get("logs") or ():
                        fraction = max(fraction, _fraction(entry["message"]))
                        yield Progress(fraction, entry["message"])
        except httpx2.HTTPError as error:
            raise self._gone(error) from None

    async def result(self, request_id: str) -> Painted:
        path = f"/queue/{APP}/requests/{request_id}"
        status = (await self._call("GET", f"{path}/status")).json()
        state = UNFINISHED.get(status["status"])
        if state is not None:
            waiting = state == "waiting"
            facts = {"queue_position": status["queue_position"]} if waiting else {}
            return Painted(request_id, state, facts=facts)
        answer = await self._send("GET", path)
        if answer.status_code != 200:
            return Painted(request_id, _ended_as(answer.status_code), error=_sentence(answer))
        output = answer.json()
        pictures = [await self._download(image["url"]) for image in output["images"]]
        first = output["images"][0]
        names = ("seed", "prompt", "timings", "has_nsfw_concepts", "text_check")
        facts = {name: output[name] for name in names if output.get(name) is not None}
        facts["size"] = f"{first['width']}x{first['height']}"
        facts["urls"] = [image["url"] for image in output["images"]]
        kind = first["content_type"].removeprefix("image/")
        return Painted(request_id, "done", tuple(pictures), kind, facts)

    async def cancel(self, request_id: str) -> None:
        with suppress(PaintingFailed):
            await self._send("PUT", f"/queue/{APP}/requests/{request_id}/cancel")

    async def recent(self, limit: int) -> list[Listed]:
        # the unfinished first: what ends between the two questions is then among the ended
        unfinished = await self._unfinished()
        path = f"/platform/v1/models/requests/search?limit={limit}&expand=payloads"
        ended = [_ended(row) for row in (await self._call("GET", path)).json()["results"]]
        known = {one.request_id for one in ended}
        return [*(one for one in unfinished if one.request_id not in known), *ended][:limit]

    async def condition(self) -> dict[str, Any]:
        answer = await self._send("GET", "/health/ready")
        return {"painted_by": f"the glmimage server at {self.url}", **answer.json()}

    async def close(self) -> None:
        await self._http.aclose()

    async def _unfinished(self) -> list[Listed]:
        """Ask how far this session's requests are, and forget those that have ended."""
        found = []
        for request_id, prompt in reversed(list(self._submitted.items())):
            answer = await self._send("GET", f"/queue/{APP}/requests/{request_id}/status")
            state = UNFINISHED.get(answer.json()["status"]) if answer.is_success else None
            if state is not None:
                found.append(Listed(request_id, prompt, state))
            elif answer.is_success or answer.status_code == 404:
                self._submitted.pop(request_id, None)
        return found

    async def _download(self, url: str) -> bytes:
        return bytes((await self._call("GET", url)).content)

    async def _call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = await self._send(method, path, **options)
        if answer.status_code >= 400:
            raise PaintingFailed(_sentence(answer))
        return answer

    async def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            return await self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> PaintingFailed:
        reason = str(error) or type(error).__name__
        return PaintingFailed(f"The glmimage server at {self.url} does not answer: {reason}.")


def _fraction(message: str) -> float:
    """Read from a line of the log how far a request is."""
    if match := _PRIOR.fullmatch(message):
        return PRIOR_SHARE * int(match[1]) / 100
    if match := _STEP.fullmatch(message):
        number, total = int(match[1] or 1), int(match[2] or 1)
        done = (number - 1 + int(match[3]) / int(match[4])) / total
        return PRIOR_SHARE + (1 - PRIOR_SHARE) * done
    return 0.0


def _ended(row: dict[str, Any]) -> Listed:
    asked = row.get("json_input") or {}
    return Listed(row["request_id"], asked.get("prompt"), _ended_as(row["status_code"]))


def _ended_as(status_code: int) -> State:
    if status_code == 200:
        return "done"
    return "cancelled" if status_code == 499 else "failed"


def _sentence(answer: httpx2.Response) -> str:
    try:
        detail = answer.json().get("detail", "")
    except ValueError:
        return f"The server answered with status {answer.status_code}."
    if isinstance(detail, list) and detail:
        place = ".".join(str(part) for part in detail[0].get("loc", [])[1:])
        return f"{place}: {detail[0].get('msg')}" if place else str(detail[0].get("msg"))
    return str(detail) or f"The server answered with status {answer.status_code}."
