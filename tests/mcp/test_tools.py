"""The tools, spoken to by the SDK's own client; painted by a painter that draws squares."""

import asyncio
import base64
import contextlib
import io
import itertools
import json

import anyio
import pytest
from PIL import Image

from glmimage.mcp.painter import Listed, Painted, PaintingFailed, Progress
from glmimage.mcp.tools import build_server

mcp = pytest.importorskip("mcp")
create_client_server_memory_streams = pytest.importorskip(
    "mcp.shared.memory"
).create_client_server_memory_streams

ID = "0" * 8 + "-0000-0000-0000-" + "0" * 12


def square(colour="red"):
    content = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(content, "PNG")
    return content.getvalue()


class Squares:
    """Paint squares; "fail" in a prompt fails, "slow" goes on until it is cancelled.

    "far" takes its time to be taken.
    """

    def __init__(self):
        self.wishes, self.cancelled, self.started = [], [], asyncio.Event()

    async def submit(self, wish):
        self.wishes.append(wish)
        if "refused" in wish.prompt:
            raise PaintingFailed("The prompt is refused.")
        if "far" in wish.prompt:
            self.started.set()
            await asyncio.sleep(0.2)
        return ID

    async def follow(self, request_id):
        if "queued" in self.wishes[-1].prompt:
            for position in (2, 2, 1, 0):
                yield Progress(0.0, f"{position} requests are ahead")
        yield Progress(0.1, "prior 33 %")
        yield Progress(0.1, "prior 33 %")
        self.started.set()
        if "slow" in self.wishes[-1].prompt:
            await asyncio.sleep(60)
        yield Progress(0.65, "step 1/2")
        yield Progress(1.0, "step 2/2")

    async def result(self, request_id):
        if request_id != ID:
            raise PaintingFailed("There is no such request.")
        wish = self.wishes[-1]
        if "fail" in wish.prompt:
            return Painted(request_id, "failed", error="It broke.")
        return Painted(request_id, "done", (square(),) * wish.num_images, "png", {"seed": 7})

    async def cancel(self, request_id):
        self.cancelled.append(request_id)

    async def recent(self, limit):
        return [Listed(ID, "x", "working")][:limit]

    async def condition(self):
        return {"painted_by": "squares"}

    async def close(self):
        pass


@contextlib.asynccontextmanager
async def by_messages(server):
    """Connect as over a wire: the client's own way in memory is to call the tool in its task."""
    async with (
        create_client_server_memory_streams() as (ours, theirs),
        anyio.create_task_group() as group,
    ):
        inner = server._lowlevel_server
        group.start_soon(inner.run, *theirs, inner.create_initialization_options())
        yield ours
        group.cancel_scope.cancel()


def talk(conversation, *, reads_files=True, connect=lambda server: server):
    """Let `conversation(client, painter)` speak to the tools."""

    async def run():
        painter = Squares()
        server = build_server(painter, "1", reads_files=reads_files)
        async with mcp.Client(connect(server)) as client:
            await conversation(client, painter)

    asyncio.run(run())


def images_of(result):
    assert not result.is_error, result.content
    return [one for one in result.content if one.type == "image"]


def facts_of(result):
    return json.loads(result.content[-1].text)


def test_the_tools_describe_themselves():
    async def conversation(client, painter):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == ["edit", "generate", "list", "status"]
        assert tools["generate"].input_schema["required"] == ["prompt"]
        assert tools["edit"].input_schema["required"] == ["prompt", "images"]
        assert tools["status"].annotations.read_only_hint
        assert all(tool.description for tool in tools.values())

    talk(conversation)


def test_pictures_come_as_image_content_with_progress():
    async def conversation(client, painter):
        seen = []

        async def progress(done, total, message):
            seen.append((done, total, message))

        arguments = {"prompt": "A sign 'OPEN'", "size": "768x512", "num_images": 2, "seed": 7}
        result = await client.call_tool("generate", arguments, progress_callback=progress)
        pictures = images_of(result)
        assert [one.mime_type for one in pictures] == ["image/png"] * 2
        assert base64.b64decode(pictures[0].data) == square()
        assert facts_of(result) == {"request_id": ID, "state": "done", "seed": 7}
        assert seen == [(10, 100, "prior 33 %"), (65, 100, "step 1/2"), (100, 100, "step 2/2")]
        (wish,) = painter.wishes
        assert (wish.width, wish.height, wish.num_images, wish.seed) == (768, 512, 2, 7)

    talk(conversation)


def test_each_place_in_the_queue_is_told_and_progress_rises():
    async def conversation(client, painter):
        seen = []

        async def progress(done, total, message):
            seen.append((done, message))

        await client.call_tool("generate", {"prompt": "queued"}, progress_callback=progress)
        steps, messages = zip(*seen, strict=True)
        assert [message[:2] for message in messages] == ["2 ", "1 ", "0 ", "pr", "st", "st"]
        assert all(later > earlier for earlier, later in itertools.pairwise(steps))
        assert steps[2] < 0.001
        assert steps[3:] == (10, 65, 100)

    talk(conversation)


def test_a_request_may_be_left_alone_and_asked_for_later():
    async def conversation(client, painter):
        result = await client.call_tool("generate", {"prompt": "x", "wait": False})
        assert facts_of(result) == {"request_id": ID, "state": "waiting"}
        later = await client.call_tool("status", {"request_id": ID})
        assert len(images_of(later)) == 1
        assert facts_of(await client.call_tool("status")) == {"painted_by": "squares"}
        listed = facts_of(await client.call_tool("list", {"limit": 5}))
        row = {"request_id": ID, "prompt": "x", "state": "working"}
        assert listed == {"requests": [row]}

    talk(conversation)


def test_edit_takes_addresses_files_and_earlier_pictures(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(square("blue"))

    async def conversation(client, painter):
        await client.call_tool("generate", {"prompt": "x"})
        images = ["https://example.org/a.png", str(path), ID, f"{ID}/1"]
        result = await client.call_tool("edit", {"prompt": "join", "images": images})
        assert images_of(result)
        address, *rest = painter.wishes[-1].images
        assert address == images[0]
        contents = [base64.b64decode(uri.partition(",")[2]) for uri in rest]
        assert contents == [square("blue"), square(), square()]

    talk(conversation)


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("generate", {"prompt": "x", "size": "100x100"}, "width is 100 px"),
        ("generate", {"prompt": "x", "size": "huge"}, "Unknown size"),
        ("generate", {"prompt": "refused"}, "The prompt is refused."),
        ("generate", {"prompt": "fail"}, "It broke."),
        ("generate", {"prompt": "x", "num_images": 9}, "num_images"),
        ("generate", {}, "prompt"),
        ("edit", {"prompt": "x", "images": []}, "images"),
        ("edit", {"prompt": "x", "images": ["/no/such/file.png"]}, "cannot be read"),
        ("edit", {"prompt": "x", "images": [f"{ID[:-1]}1"]}, "no such request"),
        ("status", {"request_id": "other"}, "no such request"),
        ("list", {"limit": 0}, "limit"),
    ],
)
def test_failures_are_sentences(tool, arguments, sentence):
    async def conversation(client, painter):
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        text = result.content[0].text
        assert sentence in text
        assert "Traceback" not in text

    talk(conversation)


def test_over_http_no_file_is_read(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(square())

    async def conversation(client, painter):
        result = await client.call_tool("edit", {"prompt": "x", "images": [str(path)]})
        assert result.is_error
        assert "on stdio only" in result.content[0].text

    talk(conversation, reads_files=False)


@pytest.mark.parametrize("prompt", ["slow", "far and slow"])
def test_a_caller_who_lets_go_cancels_the_request(prompt):
    """Also one that is just being submitted."""

    async def conversation(client, painter):
        call = asyncio.create_task(client.call_tool("generate", {"prompt": prompt}))
        await painter.started.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        for _ in range(500):
            if painter.cancelled:
                break
            await asyncio.sleep(0.01)
        assert painter.cancelled == [ID]

    talk(conversation, connect=by_messages)
