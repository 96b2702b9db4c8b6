"""The unmodified asynchronous Python client against a started service."""

import asyncio
import io

import httpx
import pytest
from PIL import Image

APP = "fal-ai/glm-image"
EDIT = "fal-ai/glm-image/image-to-image"
QUICK = {"prompt": "A sign that says 'OPEN'", "image_size": "square", "num_inference_steps": 10}


async def check_picture(result):
    image = result["images"][0]
    async with httpx.AsyncClient() as client:
        response = (await client.get(image["url"])).raise_for_status()
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.size == (image["width"], image["height"])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((128, 96), 60).convert("RGB").save(path)
    return path


def test_run_submit_subscribe_and_stream_side_by_side(fal_client):
    """Four ways at once, of one client: each gets its own picture."""

    async def submit(client):
        handle = await client.submit(APP, {**QUICK, "seed": 61})
        async for event in handle.iter_events(with_logs=True):
            last = event
        assert isinstance(last, fal_client.Completed)
        assert last.logs
        result = await handle.get()
        assert await client.result(APP, handle.request_id) == result
        assert isinstance(await client.status(APP, handle.request_id), fal_client.Completed)
        return result

    async def stream(client):
        events = [event async for event in client.stream(APP, {**QUICK, "seed": 62})]
        assert len(events) > 3
        return events[-1]

    async def subscribe(client):
        updates = []
        result = await client.subscribe(
            APP, {**QUICK, "seed": 63}, with_logs=True, on_queue_update=updates.append
        )
        assert isinstance(updates[-1], fal_client.Completed)
        return result

    async def run():
        client = fal_client.AsyncClient()
        results = await asyncio.gather(
            client.run(APP, {**QUICK, "seed": 60}),
            submit(client),
            stream(client),
            subscribe(client),
        )
        assert [result["seed"] for result in results] == [60, 61, 62, 63]
        await asyncio.gather(*map(check_picture, results))

    asyncio.run(run())


def test_cancel(service, fal_client):
    async def run():
        client = fal_client.AsyncClient()
        handle = await client.submit(APP, QUICK)
        await client.cancel(APP, handle.request_id)
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await handle.get()
        assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")

    with service.paused():
        asyncio.run(run())


def test_a_client_that_goes_away_cancels_its_run(service, fal_client):
    prompt = "nobody waits for this"
    key = {"Authorization": f"Key {service.target.api_key}"}
    platform = f"http://{service.serving.http}/platform/v1/models/requests/by-endpoint"

    def ended():
        query = {"endpoint_id": APP, "expand": "payloads", "limit": 1}
        answer = httpx.get(platform, params=query, headers=key).raise_for_status()
        items = answer.json()["items"]
        return items[0] if items and items[0]["json_input"].get("prompt") == prompt else None

    async def run():
        client = fal_client.AsyncClient()
        running = asyncio.create_task(client.run(APP, {**QUICK, "prompt": prompt}))
        async with asyncio.timeout(30):
            while not service.num_waiting():
                await asyncio.sleep(0.05)
        running.cancel()
        async with asyncio.timeout(30):
            while (last := ended()) is None:
                await asyncio.sleep(0.05)
        assert last["status_code"] == 499

    with service.paused():
        asyncio.run(run())


def test_realtime(fal_client):
    async def run():
        client = fal_client.AsyncClient()
        async with client.realtime(APP) as connection:
            await connection.send({**QUICK, "seed": 64})
            while "images" not in (message := await connection.recv()):
                pass
            assert message["seed"] == 64

    asyncio.run(run())


def test_uploads(fal_client, photo):
    async def run():
        client = fal_client.AsyncClient()
        urls = await asyncio.gather(
            client.upload(photo.read_bytes(), "image/png", file_name="photo.png"),
            client.upload_file(photo),
            client.upload_image(Image.open(photo), format="png"),
            client.upload_file(photo, repository="fal"),
        )
        async with httpx.AsyncClient() as http:
            answers = await asyncio.gather(*(http.get(url) for url in urls))
        assert [answer.headers["content-type"] for answer in answers] == ["image/png"] * 4
        assert answers[0].content == photo.read_bytes()
        await check_picture(await client.subscribe(EDIT, {**QUICK, "image_urls": urls[:2]}))

    asyncio.run(run())


def test_a_file_of_more_than_100_mib_goes_in_parts(fal_client, tmp_path):
    path = tmp_path / "large.bin"
    block = bytes(range(256)) * 4096  # 1 MiB
    with path.open("wb") as file:
        for number in range(102):
            file.write(number.to_bytes(8, "big") + block[8:])

    async def run():
        url = await fal_client.AsyncClient().upload_file(path)
        async with httpx.AsyncClient() as http, http.stream("GET", url) as response:
            with path.open("rb") as file:
                async for chunk in response.aiter_bytes(1024 * 1024):
                    assert chunk == file.read(len(chunk))
                assert file.read(1) == b""

    asyncio.run(run())


def test_errors(fal_client):
    async def run():
        client = fal_client.AsyncClient()
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await client.subscribe(APP, {})
        assert caught.value.status_code == 422
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await client.status(APP, "00000000-0000-0000-0000-000000000000")
        assert caught.value.status_code == 404
        stranger = fal_client.AsyncClient(key="not:valid")
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await stranger.run(APP, QUICK)
        assert caught.value.status_code == 401

    asyncio.run(run())
