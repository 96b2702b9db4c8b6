"""OpenAI's own client, unmodified, against the running service."""

import asyncio
import base64
import io
import json
import shutil
import ssl
import subprocess
import urllib.request

import openai
import pytest
from PIL import Image

MODEL, SIZE = "glm-image", "512x512"
FAST = {"num_inference_steps": 10}


@pytest.fixture(scope="module")
def options(service):
    return {
        "base_url": f"http://{service.serving.http}/v1",
        "api_key": service.target.api_key,
        "timeout": 240,
        "max_retries": 0,
    }


@pytest.fixture(scope="module")
def client(options):
    with openai.OpenAI(**options) as client:
        yield client


def opened(entry):
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(content, "PNG")
    content.seek(0)
    content.name = f"{colour}.png"
    return content


def test_generate(client):
    answer = client.images.generate(
        model=MODEL, prompt="A sign 'OPEN'", size=SIZE, n=2, extra_body={**FAST, "seed": 5}
    )
    pictures = [opened(entry) for entry in answer.data]
    assert [(one.format, one.size) for one in pictures] == [("PNG", (512, 512))] * 2
    assert (answer.size, answer.output_format, answer.background) == (SIZE, "png", "opaque")
    assert answer.usage.output_tokens == 2 * 512
    assert answer.usage.input_tokens_details.image_tokens == 0
    assert answer.usage.total_tokens == answer.usage.input_tokens + 1024
    assert answer.seed == 5
    assert answer._request_id


def test_formats_and_urls(client, service):
    answer = client.images.generate(
        model=MODEL,
        prompt="A sign",
        size=SIZE,
        quality="low",
        output_format="webp",
        output_compression=40,
        response_format="url",
        extra_body=FAST,
    )
    assert answer.quality == "low"
    context = ssl.create_default_context(cafile=service.serving.ca)
    with urllib.request.urlopen(answer.data[0].url, context=context) as picture:
        assert Image.open(io.BytesIO(picture.read())).format == "WEBP"


def test_edit_with_two_images(client):
    answer = client.images.edit(
        model=MODEL,
        image=[png("red"), png("blue")],
        prompt="Join them",
        size=SIZE,
        extra_body=FAST,
    )
    assert opened(answer.data[0]).size == (512, 512)
    assert answer.usage.input_tokens_details.image_tokens > 0
    assert answer.usage.output_tokens == 256


def test_streams(client):
    events = list(
        client.images.generate(
            model=MODEL, prompt="A sign", size=SIZE, stream=True, partial_images=3, extra_body=FAST
        )
    )
    *partials, completed = events
    assert [event.type.partition(".")[2] for event in partials] == ["partial_image"] * 3
    for number, partial in enumerate(partials):
        with opened(partial) as picture:
            side = 512 if number else 256
            assert (picture.format, picture.size) == ("JPEG", (side, side))
            picture.load()
        assert (partial.partial_image_index, partial.output_format) == (number, "jpeg")
    assert completed.type == "image_generation.completed"
    assert opened(completed).size == (512, 512)
    assert completed.usage.output_tokens == 512
    with client.images.edit(
        model=MODEL,
        image=png("red"),
        prompt="Paint it",
        size=SIZE,
        stream=True,
        partial_images=1,
        extra_body=FAST,
    ) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    opened(events[0]).load()


def test_models(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_failures_have_their_classes(client, options):
    with pytest.raises(openai.BadRequestError) as failure:
        client.images.generate(model=MODEL, prompt="x", size="256x256")
    assert (failure.value.param, failure.value.code) == ("size", "invalid_value")
    with pytest.raises(openai.BadRequestError) as failure:
        client.images.generate(model=MODEL, prompt="explicit porn scene")
    assert failure.value.code == "moderation_blocked"
    assert failure.value.type == "image_generation_user_error"
    with pytest.raises(openai.BadRequestError) as failure:
        client.images.edit(model=MODEL, image=png("red"), mask=png("blue"), prompt="x")
    assert failure.value.param == "mask"
    with pytest.raises(openai.NotFoundError) as failure:
        client.images.generate(model="dall-e-3", prompt="x")
    assert failure.value.code == "model_not_found"
    with (
        openai.OpenAI(**{**options, "api_key": "wrong"}) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_async(options):
    async def run():
        async with openai.AsyncOpenAI(**options) as client:
            asked = {"model": MODEL, "size": SIZE, "extra_body": FAST}
            one, stream = await asyncio.gather(
                client.images.generate(prompt="A sign", **asked),
                client.images.generate(prompt="Another", stream=True, **asked),
            )
            return opened(one.data[0]).size, [event.type async for event in stream]

    size, types = asyncio.run(run())
    assert size == (512, 512)
    assert types[-1] == "image_generation.completed"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_in_zai_s_form(service):
    body = {"model": MODEL, "prompt": "A sign", "size": SIZE, "num_inference_steps": 10}
    done = subprocess.run(
        [
            *("curl", "-sS", f"http://{service.serving.http}/api/paas/v4/images/generations"),
            *("-H", f"Authorization: Bearer {service.target.api_key}", "-d", json.dumps(body)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["data"][0]["url"].endswith(".png")
