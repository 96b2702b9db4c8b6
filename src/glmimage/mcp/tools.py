"""The four tools: generate, edit, status, list."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from ..errors import GlmImageError
from ..types import MAX_IMAGES, MAX_SOURCE_IMAGES, SIZE_PRESETS, parse_size
from .painter import Painted, PaintingFailed, Paints, Wish

INSTRUCTIONS = (
    "Paint pictures with GLM-Image, whose strength is legible text: put every word that is to be "
    "written in the picture in quotes in the prompt. `generate` paints from a prompt, `edit` from "
    "a prompt and 1 to 4 pictures; both return the pictures and their seed. A request takes from "
    "seconds to minutes; with wait=false it answers at once with an id for `status`."
)
MAX_LISTED = 50
SMALLEST_RISE = 1e-6
"""Of progress; a hundred thousand places in a queue are 10 % at most."""
Content = list[Image | str]

Prompt = Annotated[
    str, Field(description="What to paint. Words to be written in the picture go in quotes.")
]
Size = Annotated[
    str,
    Field(
        description=f"{', '.join(SIZE_PRESETS)}, or WIDTHxHEIGHT with both sides 512 to 2048 px "
        "in steps of 32."
    ),
]
Steps = Annotated[int, Field(ge=10, le=100, description="Denoise steps; fewer is faster.")]
Guidance = Annotated[float, Field(ge=1, le=10, description="How closely to follow the prompt.")]
Seed = Annotated[int | None, Field(description="The same seed gives the same picture.")]
NumImages = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="How many pictures.")]
Encoding = Annotated[Literal["jpeg", "png"], Field(description="Format of the pictures.")]
TextCheckWanted = Annotated[
    bool, Field(description="Read the pictures and tell which quoted words were found.")
]
BestOf = Annotated[
    int,
    Field(ge=1, le=MAX_IMAGES, description="Paint so many, return those with most words legible."),
]
Wait = Annotated[bool, Field(description="Wait for the pictures, with progress.")]
Pictures = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=MAX_SOURCE_IMAGES,
        description="The pictures to start from, the main subject first: http(s) addresses, data "
        "URIs, ids of earlier requests (ID, or ID/2 for its second picture), or paths of files "
        "where this server runs on stdio.",
    ),
]
RequestId = Annotated[
    str | None, Field(description="A request's id; without one, the painter itself.")
]
Limit = Annotated[int, Field(ge=1, le=MAX_LISTED, description="How many at most.")]


def build_server(painter: Paints, version: str, *, reads_files: bool) -> MCPServer[Any]:
    """Put the tools over a painter. reads_files: paths of this machine may be named."""

    server: MCPServer[Any] = MCPServer(
        "glmimage", instructions=INSTRUCTIONS, version=version, log_level="WARNING"
    )
    tools = Tools(painter, reads_files=reads_files)
    paints = ToolAnnotations(read_only_hint=False, destructive_hint=False)
    reads = ToolAnnotations(read_only_hint=True)
    for function, name, hints in (
        (tools.generate, "generate", paints),
        (tools.edit, "edit", paints),
        (tools.status, "status", reads),
        (tools.list_requests, "list", reads),
    ):
        server.tool(name, annotations=hints, structured_output=False)(function)
    return server


class Tools:
    """Do what the assistant asks; a failure is a sentence for it to read."""

    def __init__(self, painter: Paints, *, reads_files: bool) -> None:
        self._painter, self._reads_files = painter, reads_files

    async def generate(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        size: Size = "square_hd",
        num_inference_steps: Steps = 30,
        guidance_scale: Guidance = 1.5,
        seed: Seed = None,
        num_images: NumImages = 1,
        output_format: Encoding = "jpeg",
        text_check: TextCheckWanted = False,
        best_of: BestOf = 1,
        wait: Wait = True,
    ) -> Content:
        """Paint pictures from a prompt, and return them with their seed."""
        wish = Wish(
            prompt,
            *_size(size),
            num_inference_steps,
            guidance_scale,
            seed,
            num_images,
            output_format,
            text_check,
            best_of,
        )
        return await self._paint(wish, ctx, wait)

    async def edit(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        images: Pictures,
        size: Size = "square_hd",
        num_inference_steps: Steps = 30,
        guidance_scale: Guidance = 1.5,
        seed: Seed = None,
        num_images: NumImages = 1,
        output_format: Encoding = "jpeg",
        text_check: TextCheckWanted = False,
        best_of: BestOf = 1,
        wait: Wait = True,
    ) -> Content:
        """Paint pictures from a prompt and 1 to 4 others: change, restyle or combine them."""
        wish = Wish(
            prompt,
            *_size(size),
            num_inference_steps,
            guidance_scale,
            seed,
            num_images,
            output_format,
            text_check,
            best_of,
            await self._references(images),
        )
        return await self._paint(wish, ctx, wait)

    async def status(self, request_id: RequestId = None) -> Content:
        """Tell how far a request is, with its pictures when it is done; or who paints here."""
        try:
            if request_id is None:
                return [_text(await self._painter.condition())]
            return _content(await self._painter.result(request_id))
        except PaintingFailed as error:
            raise ToolError(str(error)) from None

    async def list_requests(self, limit: Limit = 10) -> Content:
        """List the latest requests: unfinished ones, then the newest first."""
        try:
            found = await self._painter.recent(limit)
            return [_text({"requests": [asdict(one) for one in found]})]
        except PaintingFailed as error:
            raise ToolError(str(error)) from None

    async def _paint(self, wish: Wish, ctx: Context[Any, Any], wait: bool) -> Content:
        try:
            with anyio.CancelScope(shield=True):  # what is taken needs its id to be cancelled
                request_id = await self._painter.submit(wish)
            if not wait:
                return [_text({"request_id": request_id, "state": "waiting"})]
            return _content(await self._finished(request_id, ctx))
        except PaintingFailed as error:
            raise ToolError(str(error)) from None

    async def _finished(self, request_id: str, ctx: Context[Any, Any]) -> Painted:
        shown, told = -1.0, ""
        try:
            async for news in self._painter.follow(request_id):
                if shown < 1 and (news.fraction > shown or news.message != told):
                    # the protocol's progress rises with every notification, if only words change
                    shown = min(1.0, max(news.fraction, shown + SMALLEST_RISE))
                    told = news.message
                    await ctx.report_progress(100 * shown, 100, told)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._painter.cancel(request_id)
            raise
        painted = await self._painter.result(request_id)
        if painted.state != "done":
            raise PaintingFailed(painted.error or f"The request is {painted.state}.")
        return painted

    async def _references(self, images: Sequence[str]) -> tuple[str, ...]:
        try:
            return tuple([await self._reference(image) for image in images])
        except PaintingFailed as error:
            raise ToolError(str(error)) from None

    async def _reference(self, image: str) -> str:
        """Return a picture as a data URI or an address."""
        if image[:5].lower() == "data:" or image.lower().startswith(("http://", "https://")):
            return image
        request_id, _, number = image.partition("/")
        if len(request_id) == 36 and request_id.count("-") == 4 and (number or "1").isdigit():
            painted = await self._painter.result(request_id)
            index = int(number or 1) - 1
            if not 0 <= index < len(painted.pictures):
                raise PaintingFailed(f"Request {request_id} has no picture {index + 1}.")
            return _data_uri(painted.pictures[index], f"image/{painted.picture_format}")
        if not self._reads_files:
            raise PaintingFailed(
                f"{image[:80]!r} is neither an http(s) address, a data URI nor the id of a "
                "request; files are read on stdio only."
            )
        path = Path(image).expanduser()
        try:
            content = await anyio.Path(path).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PaintingFailed(f"The file {image[:200]!r} cannot be read: {reason}.") from None
        return _data_uri(content, mimetypes.guess_type(path.name)[0] or "image/png")


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except GlmImageError as error:
        raise ToolError(f"{error.message} {error.hint}".strip()) from None


def _content(painted: Painted) -> Content:
    pictures = [Image(data=picture, format=painted.picture_format) for picture in painted.pictures]
    facts: dict[str, Any] = {"request_id": painted.id, "state": painted.state, **painted.facts}
    if painted.error:
        facts["error"] = painted.error
    return [*pictures, _text(facts)]


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False)


def _data_uri(content: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"
