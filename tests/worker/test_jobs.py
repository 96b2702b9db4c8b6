"""What a worker makes of jobs: the pictures, their files, the log, the end."""

import base64
import io
import time
from functools import cache

import numpy as np
import pytest
from PIL import Image

from glmimage.jobs import FileRecord
from glmimage.types import GenerationRequest


def shade():
    return Image.linear_gradient("L").resize((512, 512)).convert("RGB")


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture(scope="module")
def engine_pictures(tiny_dir):
    """Give the function that paints without the service."""
    from glmimage.pipeline import Pipeline

    with Pipeline.load(str(tiny_dir), "cpu", "float32") as pipe:

        @cache
        def paint(seed=7, num_images=1, num_references=0):
            request = GenerationRequest(
                *("A sign 'OPEN'", 512, 512),
                num_inference_steps=2,
                seed=seed,
                num_images=num_images,
                source_images=(shade(),) * num_references,
            )
            return [np.asarray(image) for image in pipe.generate(request).images]

        yield paint


def test_a_job_becomes_the_picture_of_its_seed(service, engine_pictures, judge):
    job = service.wait(service.submit(webhook_url="http://hook.example/"))
    assert (job.state, job.status, job.progress, job.attempt) == ("done", 200, 1.0, 1)
    (image,) = job.result["images"]
    content = service.file(image["file_id"])
    assert np.array_equal(pixels(content), engine_pictures()[0])
    assert np.array_equal(np.asarray(judge.seen[-1]), engine_pictures()[0])
    assert (image["width"], image["height"], image["content_type"]) == (512, 512, "image/png")
    assert (image["file_size"], image["nsfw"]) == (len(content), False)
    assert image["file_name"].endswith(".png")
    assert (job.result["seed"], job.result["prompt"]) == (7, "A sign 'OPEN'")
    assert job.result["timings"]["inference"] > 0
    record = service("get_file", image["file_id"])
    assert (record.kind, record.job_id, record.size) == ("output", job.id, len(content))
    assert record.expires - record.created == service.settings.output_lifetime_s
    assert "step 1/2" in service.messages(job.id)
    assert "step 2/2" in service.messages(job.id)
    (event,) = service("billing_events", job_id=job.id)
    assert event.megapixels == pytest.approx(512 * 512 / 1e6)
    assert event.cost == pytest.approx(0.15 * 512 * 512 / 1e6)
    assert [w.url for w in service("list_webhooks", job.id)] == ["http://hook.example/"]


def test_several_pictures_each_have_their_seed(service, engine_pictures):
    job = service.wait(service.submit(num_images=2))
    made = [pixels(service.file(image["file_id"])) for image in job.result["images"]]
    for ours, theirs in zip(made, engine_pictures(num_images=2), strict=True):
        assert np.array_equal(ours, theirs)
    assert "picture 2/2: step 2/2" in service.messages(job.id)


def test_jpeg_is_of_high_quality(service, engine_pictures):
    job = service.wait(service.submit(input={"output_format": "jpeg"}))
    (image,) = job.result["images"]
    content = service.file(image["file_id"])
    assert image["content_type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("JPEG", (512, 512))
    # quality 95 keeps the steps of the first quantisation table at one tenth of those of 50
    assert max(picture.quantization[0]) <= 12


def test_what_is_wanted_as_data_is_not_stored(service, engine_pictures):
    job = service.wait(service.submit(input={"sync_mode": True}))
    (image,) = job.result["images"]
    head, _, data = image["data_uri"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(pixels(base64.b64decode(data)), engine_pictures()[0])
    assert service("files_of", job.id) == []


def test_a_flagged_picture_is_black_and_stored_nowhere(service, judge, engine_pictures):
    judge.score_of_next = 0.9
    try:
        job = service.wait(service.submit(seed=8))
        unchecked = service.wait(service.submit(seed=8, input={"enable_safety_checker": False}))
    finally:
        judge.score_of_next = 0.0
    (image,) = job.result["images"]
    assert image["nsfw"]
    black = pixels(service.file(image["file_id"]))
    assert black.shape == (512, 512, 3)
    assert not black.any()
    assert len(service("files_of", job.id)) == 1
    (image,) = unchecked.result["images"]
    assert not image["nsfw"]
    assert np.array_equal(pixels(service.file(image["file_id"])), engine_pictures(seed=8)[0])


def test_references_are_read_from_their_files(service, engine_pictures):
    buffer = io.BytesIO()
    shade().save(buffer, "PNG")
    path = service.settings.data_dir / "files" / "references" / "r1.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    record = FileRecord("r1", "references/r1.png", "image/png", 1, "r.png", time.time())
    service("add_file", record)
    job = service.wait(service.submit(reference_file_ids=("r1",)))
    (image,) = job.result["images"]
    expected = engine_pictures(num_references=1)[0]
    assert np.array_equal(pixels(service.file(image["file_id"])), expected)


def test_a_reference_that_is_gone_is_the_requests_fault(service):
    job = service.wait(service.submit(reference_file_ids=("nothing",)))
    assert (job.state, job.status, job.error_type) == ("failed", 422, "image_load_error")
    assert job.result["detail"][0]["loc"] == ["body", "image_urls"]
    assert "reference image 1" in job.error


def test_the_prior_of_an_equal_request_is_used_again(service, engine_pictures):
    first = service.wait(service.submit(seed=9, prior_key="k"))
    second = service.wait(service.submit(seed=9, prior_key="k"))
    assert "The prior of an equal request is used again." in service.messages(second.id)
    assert not any(m.startswith("prior ") for m in service.messages(second.id))
    contents = [service.file(j.result["images"][0]["file_id"]) for j in (first, second)]
    assert contents[0] == contents[1]
    assert first.result["tokens"] == second.result["tokens"]
    anew = service.wait(service.submit(seed=9, prior_key="k", input={"reuse": False}))
    assert "The prior of an equal request is used again." not in service.messages(anew.id)


def test_a_lifecycle_decides_how_long_and_for_whom(service):
    acl = {"default": "hide", "rules": []}
    lifecycle = {"expiration_duration_seconds": 60, "initial_acl": acl}
    job = service.wait(service.submit(lifecycle=lifecycle, api_key_id="me"))
    (record,) = service("files_of", job.id)
    assert record.expires - record.created == 60
    assert (record.acl, record.owner) == (acl, "me")


def test_cancelling_is_quick_and_frees_the_engine(service):
    job_id = service.submit(input={"num_inference_steps": 100})
    service.wait(job_id, lambda job: job.state == "running" and job.last_log > 0)
    assert service("cancel", job_id) == "requested"
    started = time.monotonic()
    job = service.wait(job_id)
    assert time.monotonic() - started < 10
    assert (job.state, job.status, job.error_type) == ("cancelled", 499, "client_cancelled")
    assert service("files_of", job_id) == []
    assert service.wait(service.submit(seed=10)).state == "done"


def test_jobs_share_the_engine(service, engine_pictures):
    ids = [service.submit(seed=seed) for seed in (7, 8, 20)]
    for seed, job_id in zip((7, 8, 20), ids, strict=True):
        (image,) = service.wait(job_id).result["images"]
        expected = engine_pictures(seed=seed)[0]
        assert np.array_equal(pixels(service.file(image["file_id"])), expected)


def test_the_worker_reports_itself(service):
    (worker,) = service("live_workers", time.time() - 30)
    assert worker.ready
    assert worker.stages == ("prior", "decode")
    assert worker.model == service.settings.model
    assert worker.info["device"] == "cpu"


def previews_of(service, job):
    return {f.name: f for f in service("files_of", job.id) if f.kind == "preview"}


def test_previews_are_for_those_who_ask(service):
    job = service.wait(service.submit(num_images=2, input={"preview": 1}))
    previews = previews_of(service, job)
    assert sorted(previews) == ["preview-0-0.jpg", "preview-1-0.jpg"]
    for record in previews.values():
        assert pixels(service.file(record.id)).shape == (256, 256, 3)
        assert record.expires - record.created == 3600
    messages = service.messages(job.id)
    assert messages.index("picture 1/2: preview") < messages.index("picture 1/2: step 1/2")

    plain = service.wait(service.submit(seed=11))
    unstored = service.wait(service.submit(seed=12, input={"preview": 1, "sync_mode": True}))
    for job in (plain, unstored):
        assert not previews_of(service, job)
        assert not any("preview" in message for message in service.messages(job.id))


def test_further_previews_come_from_the_denoise_loop(service):
    """In equal parts of its steps, each nearer to the picture that is made in the end."""
    asked = {"preview": 3, "num_inference_steps": 9, "output_format": "png"}
    job = service.wait(service.submit(seed=41, input=asked))
    previews = previews_of(service, job)
    assert sorted(previews) == [f"preview-0-{number}.jpg" for number in range(3)]
    shown = [pixels(service.file(previews[name].id)) for name in sorted(previews)]
    assert [image.shape for image in shown] == [(256, 256, 3), (512, 512, 3), (512, 512, 3)]
    made = pixels(service.file(job.result["images"][0]["file_id"])).astype(float)
    far = [np.abs(image - made).mean() for image in shown[1:]]
    assert far[0] > far[1]
    assert service.messages(job.id).count("picture 1/1: preview") == 3


def test_a_preview_changes_no_picture(service):
    values = {"seed": 21, "num_images": 1}
    seen = service.wait(service.submit(**values, input={"preview": 3}))
    blind = service.wait(service.submit(**values))
    made = [service.file(job.result["images"][0]["file_id"]) for job in (seen, blind)]
    assert made[0] == made[1]


def test_a_flagged_preview_is_not_shown(service, judge):
    judge.score_of_next = 1.0
    try:
        job = service.wait(service.submit(seed=31, input={"preview": 2}))
    finally:
        judge.score_of_next = 0.0
    assert not previews_of(service, job)


def test_a_job_is_painted_with_the_adapters_it_names(service, engine_pictures, adapters, tiny_dir):
    from glmimage import Lora
    from glmimage.pipeline import Pipeline

    loras = [{"path": "painted", "scale": 1.0}, {"path": "written", "scale": 0.0}]
    job = service.wait(service.submit(input={"loras": loras}))
    (image,) = job.result["images"]
    painted = pixels(service.file(image["file_id"]))
    with Pipeline.load(str(tiny_dir), "cpu", "float32") as pipe:
        made = pipe.generate(
            "A sign 'OPEN'",
            width=512,
            height=512,
            num_inference_steps=2,
            seed=7,
            loras=[Lora(str(adapters / "painted"))],
        )
    assert np.array_equal(painted, np.asarray(made.images[0]))
    assert not np.array_equal(painted, engine_pictures()[0])


def test_adapters_that_are_gone_by_now_fail_the_job(service):
    job = service.wait(service.submit(input={"loras": [{"path": "gone", "scale": 1.0}]}))
    assert (job.state, job.status) == ("failed", 422)
    (detail,) = job.result["detail"]
    assert detail["loc"] == ["body", "loras"]
    assert "There is no adapter 'gone'; known are: both, painted, written" in detail["msg"]
