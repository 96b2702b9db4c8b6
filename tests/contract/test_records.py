"""Keys, files, webhooks, usage, requests, workers."""

import time

import pytest

from glmimage.jobs import FileRecord, Usage

pytestmark = pytest.mark.anyio


async def test_a_key_is_known_by_its_text_alone(store):
    text, key = await store.create_key("Anna\u2019s \0key", concurrency=2, rate=60.0)
    found = await store.find_key(text)
    assert found.id == key.id
    assert (found.name, found.concurrency, found.rate) == ("Anna\u2019s key", 2, 60.0)
    assert text.startswith(f"{key.id}:")
    assert text.endswith(key.hint)
    for wrong in ("", key.id, text[:-1], text + "x", text.upper(), "\ud800"):
        assert await store.find_key(wrong) is None


async def test_a_revoked_key_is_worthless_and_remembered(store):
    text, key = await store.create_key("a")
    _, other = await store.create_key("b")
    assert await store.revoke_key(key.id)
    assert not await store.revoke_key(key.id)
    assert not await store.revoke_key("nothing")
    assert await store.find_key(text) is None
    keys = await store.list_keys()
    assert [one.id for one in keys] == [key.id, other.id]
    assert [one.revoked_at is None for one in keys] == [False, True]


async def test_no_secret_is_in_the_database(database_url, store):
    text, _ = await store.create_key("a")
    if not database_url.startswith("sqlite"):
        pytest.skip("the file is the database on SQLite alone")
    await store.close()
    from pathlib import Path

    content = Path(database_url.removeprefix("sqlite:///")).read_bytes()
    assert text.partition(":")[0].encode() in content
    assert text.partition(":")[2].encode() not in content


def file(id, **changes):
    values = {
        "id": id,
        "path": f"uploads/{id}",
        "content_type": "image/png",
        "size": 2**40,
        "name": "p\u00fcre \u56fe.png",
        "created": 1.5,
    }
    return FileRecord(**values | changes)


async def test_files_are_found_until_they_are_deleted(store):
    acl = {"default": "hide", "rules": [{"user": "bob", "decision": "allow"}]}
    stored = file("a", expires=100.0, acl=acl, owner="key", kind="upload", job_id="job")
    await store.add_file(stored)
    await store.add_file(file("b", expires=50.0))
    await store.add_file(file("c"))
    assert await store.get_file("a") == stored
    assert await store.get_file("x") is None
    assert [one.id for one in await store.files_of("job")] == ["a"]
    assert [one.id for one in await store.expired_files(100.0)] == ["b", "a"]
    assert [one.id for one in await store.expired_files(100.0, limit=1)] == ["b"]
    assert await store.known_paths(["uploads/a", "uploads/x"]) == {"uploads/a"}
    assert await store.set_file_acl("c", acl, 10.0)
    assert (await store.get_file("c")).acl == acl
    assert not await store.set_file_acl("x", None, None)
    assert await store.delete_file_rows(["a", "b", "x"]) == 2
    assert await store.get_file("a") is None


async def test_a_delivery_is_one_process_work_until_it_is_noted(store, new_job):
    job, _ = await store.enqueue(new_job(webhook_url="https://h/?a=1"))
    assert await store.next_webhook_at() is None
    await store.cancel(job.id)
    (webhook,) = await store.due_webhooks()
    assert (webhook.job_id, webhook.url, webhook.state) == (job.id, "https://h/?a=1", "pending")
    now = time.time()
    assert await store.due_webhooks() == []
    (again,) = await store.due_webhooks(now + 3600)  # whoever took it has died
    assert again.id == webhook.id
    await store.webhook_failed(webhook.id, "connection refused", now + 10, status=None)
    assert await store.next_webhook_at() == pytest.approx(now + 10)
    (again,) = await store.due_webhooks(now + 11)
    assert (again.attempts, again.error) == (1, "connection refused")
    await store.webhook_delivered(webhook.id, 204)
    (done,) = await store.list_webhooks(job.id)
    assert (done.state, done.attempts, done.status, done.error) == ("delivered", 2, 204, None)
    assert await store.next_webhook_at() is None
    assert await store.list_webhooks("other") == []


async def test_a_delivery_can_fail_for_good(store, new_job):
    job, _ = await store.enqueue(new_job(webhook_url="https://h"))
    await store.cancel(job.id)
    (webhook,) = await store.due_webhooks()
    await store.webhook_failed(webhook.id, "answered 500", None, status=500)
    (failed,) = await store.list_webhooks()
    assert (failed.state, failed.status, failed.next_attempt) == ("failed", 500, None)
    assert await store.due_webhooks(time.time() + 1e9) == []


async def run(store, new_job, claim_one, price=0.15, **changes):
    job, _ = await store.enqueue(new_job(**changes))
    await store.finish(await claim_one(), {"images": []}, [], Usage(2.0, price, 1.5))
    return job.id


async def test_usage_is_summed_up_as_asked(store, new_job, claim_one):
    a = await run(store, new_job, claim_one, api_key_id="k1")
    b = await run(store, new_job, claim_one, api_key_id="k2")
    c = await run(store, new_job, claim_one, price=0.2, endpoint="edit", api_key_id="k1")
    rows = {(row.endpoint, row.unit_price): row for row in await store.usage()}
    assert rows["fal-ai/glm-image", 0.15].num_requests == 2
    assert rows["fal-ai/glm-image", 0.15].cost == pytest.approx(0.6)
    assert rows["edit", 0.2].megapixels == 2.0
    assert {row.api_key_id for row in await store.usage(by_key=True)} == {"k1", "k2"}
    assert [row.endpoint for row in await store.usage(endpoints=["edit"])] == ["edit"]
    (row,) = await store.usage(api_key_id="k2")
    assert row.num_requests == 1
    now = time.time()
    assert await store.usage(now + 10) == []
    assert await store.usage(0, now - 3600) == []
    sliced = await store.usage(slice_s=3600)
    assert {row.start % 3600 for row in sliced} == {0}
    events = await store.billing_events()
    assert [event.job_id for event in events] == [c, b, a]
    assert [event.job_id for event in await store.billing_events(limit=1, offset=1)] == [b]
    (event,) = await store.billing_events(job_id=a)
    assert (event.megapixels, event.cost) == (2.0, pytest.approx(0.3))


async def test_requests_are_listed_by_what_they_came_to(store, new_job, claim_one):
    done = await run(store, new_job, claim_one)
    refused = (await store.insert_failed(new_job(), 422, {"detail": "no"})).id
    broken, _ = await store.enqueue(new_job())
    await store.fail(await claim_one(), 500, {"detail": "broken"})
    await store.enqueue(new_job())  # has not ended: not listed
    endpoint = broken.endpoint

    async def ids(**options):
        return [job.id for job in await store.requests(endpoint, **options)]

    assert await ids() == [broken.id, refused, done]
    assert await ids(statuses=[(200, 299)]) == [done]
    assert await ids(statuses=[(400, 499), (500, 599)]) == [broken.id, refused]
    assert await ids(job_id=done) == [done]
    assert await ids(limit=1, offset=1) == [refused]
    assert await ids(start=time.time() + 10) == []
    assert len(await ids(sort_by="duration")) == 3
    assert await store.requests("other") == []
    (job,) = await store.requests(endpoint, job_id=refused, with_payloads=True)
    assert (job.input, job.result) == ({"prompt": "a"}, {"detail": "no"})
    (job,) = await store.requests(endpoint, job_id=refused)
    assert (job.input, job.result) == (None, None)


async def test_workers_report_themselves(store):
    began = time.time()
    await store.worker_seen("w1", ["prior", "decode"], "nano", "", ready=False, started_at=began)
    (loading,) = await store.live_workers(began - 5)
    assert (loading.ready, loading.stages, loading.model) == (False, ("prior", "decode"), "nano")
    await store.worker_seen(
        "w1", ["prior"], "nano", "r1", ready=True, started_at=began, info={"device": "cpu"}
    )
    (ready,) = await store.live_workers(began - 5)
    assert (ready.ready, ready.model_revision, ready.info) == (True, "r1", {"device": "cpu"})
    assert await store.live_workers(time.time() + 5) == []
    await store.worker_gone("w1")
    assert await store.live_workers(0) == []
