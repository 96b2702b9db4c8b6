"""Every number of the catalogue that a gateway exports moves, and strangers do not see them."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from glmimage.jobs import FileRecord, NewJob
from glmimage.policy import open_policy
from glmimage.server import metrics
from glmimage.server.fal.errors import RequestError
from glmimage.telemetry.catalogue import BY_NAME, METRICS
from glmimage.telemetry.meters import Meters

ENDPOINT = "fal-ai/glm-image"


def scrape(server):
    """Return {(sample, sorted labels): value}."""
    answer = server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(found, name, **labels):
    """Add up the samples of a name that have these labels."""
    return sum(
        value
        for (sample, told), value in found.items()
        if sample == name and labels.items() <= dict(told).items()
    )


def value_of(server, name, **labels):
    series = f"{name}_count" if BY_NAME[name].kind == "histogram" else name
    return total(scrape(server), series, **labels)


def poll(server):
    server.http.get("/health/live")


def paint(server):
    server.result(server.submit("a square")["request_id"])


def be_refused(server):
    server.services.keys.count_request = lambda _: refuse()
    assert server.http.post(f"/queue/{ENDPOINT}", json={"prompt": "a"}).status_code == 429


def refuse():
    raise RequestError("rate_limit", "Too many.")


def expand(server):
    server.result(server.submit("a square", enable_prompt_expansion=True)["request_id"])


def ask_twice(server):
    for _ in range(2):
        server.result(server.submit("a square", seed=5)["request_id"])


def ask_for_what_is_refused(server):
    server.result(server.submit("a nude woman")["request_id"])


def call_a_dead_webhook(server):
    request = server.submit(query={"fal_webhook": "http://127.0.0.1:9/hook"})["request_id"]
    server.result(request)
    server.until(lambda: server.services.counters.webhooks)


def sweep(server):
    record = FileRecord("old", "uploads/ab/old", "image/png", 7, "old.png", 0.0, expires=1.0)
    server.call(server.store.add_file(record))
    server.call(server.app.sweeper.remove_expired())


def wait_in_line(server):
    server.tell(server.worker.awake.clear)
    enqueue = server.store.enqueue
    for _ in range(2):  # one of them may still be claimed
        server.call(enqueue(NewJob(ENDPOINT, {"prompt": "slow"}, priority="low", width=32)))
    server.until(server.services.live.queue_length)
    time.sleep(0.02)


def work_long(server):
    server.submit("a slow square")
    server.until(lambda: server.worker.claimed)


def start_worker(server):
    server.call(server.store.worker_seen("new", ready=False))


def lose_a_lease(server):
    store = server.store
    server.tell(server.worker.awake.clear)
    server.call(store.enqueue(NewJob(ENDPOINT, {"prompt": "slow"}, needs_preparation=False)))
    server.until(lambda: server.call(store.claim("dying", ["prior"], 1, 0.01)) or taken(server))
    server.call(store.recover_leases(time.time() + 1000))


def taken(server):
    return server.worker.claimed


def store_a_file(server):
    server.services.stored_files.remembered_s = 0.0
    paint(server)


def fill_the_disk(server):
    server.monkeypatch.setattr(metrics.shutil, "disk_usage", lambda _: Disk(2000, 1500, 500))


class Disk:
    def __init__(self, total, used, free):
        self.total, self.used, self.free = total, used, free


MOVES = {
    "glmimage_http_requests_total": (poll, {"surface": "server", "method": "GET"}),
    "glmimage_http_answer_seconds": (poll, {"surface": "server"}),
    "glmimage_requests_total": (paint, {"endpoint": ENDPOINT, "outcome": "done"}),
    "glmimage_requests_rejected_total": (be_refused, {"reason": "rate_limit"}),
    "glmimage_request_seconds": (paint, {"endpoint": ENDPOINT}),
    "glmimage_queue_wait_seconds": (paint, {"priority": "normal"}),
    "glmimage_prepare_seconds": (expand, {}),
    "glmimage_result_cache_total": (ask_twice, {"outcome": "hit"}),
    "glmimage_policy_refusals_total": (ask_for_what_is_refused, {"kind": "sexual"}),
    "glmimage_webhook_attempts_total": (call_a_dead_webhook, {"outcome": "retried"}),
    "glmimage_swept_total": (sweep, {"kind": "expired"}),
    "glmimage_disk_size_bytes": (fill_the_disk, {}),
    "glmimage_disk_free_bytes": (fill_the_disk, {}),
    "glmimage_queue_jobs": (wait_in_line, {"stage": "prior", "priority": "low"}),
    "glmimage_queue_oldest_seconds": (wait_in_line, {"stage": "prior", "priority": "low"}),
    "glmimage_running_jobs": (work_long, {"stage": "prior"}),
    "glmimage_workers": (start_worker, {"stage": "decode", "state": "loading"}),
    "glmimage_lease_losses_total": (lose_a_lease, {}),
    "glmimage_webhooks_pending": (call_a_dead_webhook, {}),
    "glmimage_files": (store_a_file, {"kind": "output"}),
    "glmimage_file_bytes": (store_a_file, {"kind": "output"}),
}


def test_every_metric_of_the_gateway_has_its_test():
    assert MOVES.keys() == {metric.name for metric in METRICS if metric.origin != "worker"}


@pytest.mark.parametrize("name", MOVES)
def test_it_moves(serve, monkeypatch, name):
    server = serve(open_policy(allowed_webhooks=["127.0.0.1"]))
    server.monkeypatch = monkeypatch
    move, labels = MOVES[name]
    assert labels.keys() <= set(BY_NAME[name].labels)
    if name == "glmimage_file_bytes":
        server.services.stored_files.remembered_s = 0.0
    before = value_of(server, name, **labels)
    move(server)
    server.until(lambda: value_of(server, name, **labels) != before)


def test_all_is_there_from_the_start(server):
    """What is named, and at 0 what can be known: else the first failure is no rise."""
    text = server.http.get("/metrics").text
    assert {name for name in BY_NAME if f"# HELP {name} " in text} == BY_NAME.keys()
    found = scrape(server)
    for name, label, known in (
        ("glmimage_requests_total", "outcome", metrics.OUTCOMES),
        ("glmimage_requests_rejected_total", "reason", metrics.REASONS),
        ("glmimage_webhook_attempts_total", "outcome", metrics.DELIVERIES),
        ("glmimage_swept_total", "kind", metrics.SWEPT),
        ("glmimage_policy_refusals_total", "kind", server.services.policy.prompts.kinds),
        ("glmimage_result_cache_total", "outcome", ("hit", "miss")),
    ):
        there = {dict(labels)[label] for sample, labels in found if sample == name}
        assert there == set(known) and known
        assert total(found, name) == 0


def test_numbers_are_right(serve):
    server = serve()
    for prompt in ("a square", "a square", "it will crash", "a nude woman", ""):
        server.result(server.submit(prompt)["request_id"])
    found = scrape(server)

    def number(outcome):
        name = "glmimage_requests_total"
        return total(found, name, endpoint=ENDPOINT, outcome=outcome)

    outcomes = ("done", "failed", "refused", "invalid", "cancelled")
    assert [number(outcome) for outcome in outcomes] == [2, 1, 1, 1, 0]
    assert total(found, "glmimage_request_seconds_count", endpoint=ENDPOINT) == 2
    assert total(found, "glmimage_policy_refusals_total", kind="sexual") == 1
    assert total(found, "glmimage_queue_jobs") == 0
    assert total(found, "glmimage_running_jobs") == 0
    assert total(found, "glmimage_workers", stage="prior", state="ready") == 1
    server.services.live._ended.clear()
    for job in server.worker.claimed:  # asked for again from the store, it has not ended anew
        server.services.live._since = time.time()
        server.call(server.services.live.get(job.id))
    again = scrape(server)
    assert total(again, "glmimage_requests_total") == total(found, "glmimage_requests_total")


def test_requests_that_are_not_taken_are_counted(serve):
    server = serve(max_queue_length=1)
    server.tell(server.worker.awake.clear)
    answers = [
        server.http.post(f"/queue/{ENDPOINT}", json={"prompt": "a"}).status_code for _ in range(4)
    ]
    assert 429 in answers
    found = scrape(server)
    name = "glmimage_requests_rejected_total"
    assert total(found, name, endpoint=ENDPOINT, reason="queue_full") == answers.count(429)


def test_what_workers_tell_is_exported_by_worker(serve):
    server = serve()
    meters = Meters("worker")
    meters.count("glmimage_pictures_checked_total", 7)
    meters.observe("glmimage_stage_seconds", 0.3, stage="prior")
    figures = meters.snapshot() | {"glmimage_of_the_future_total": [[["a"], [1]]]}
    figures["glmimage_batch_size"] = [[["prior"], [1.0, 2.0]]]  # not as many buckets as here
    server.call(server.store.worker_seen("painter", info={"figures": figures}))
    server.call(server.store.worker_seen("old", info={"num_checked": 3}))
    found = scrape(server)
    assert total(found, "glmimage_pictures_checked_total", worker="painter") == 7
    assert total(found, "glmimage_stage_seconds_sum", worker="painter", stage="prior") == 0.3
    assert total(found, "glmimage_stage_seconds_bucket", worker="painter", le="0.25") == 0
    assert total(found, "glmimage_stage_seconds_bucket", worker="painter", le="0.5") == 1
    assert not [name for name, _ in found if "future" in name or "batch_size" in name]


def test_only_what_the_catalogue_names_is_exported(serve):
    server = serve()
    paint(server)
    server.call(server.store.worker_seen("w", info={"figures": Meters("worker").snapshot()}))
    known = {series: metric for metric in METRICS for series in metric.series}
    for name, labels in scrape(server):
        allowed = {*known[name].exported_labels, "le"} if name.endswith("_bucket") else None
        assert set(dict(labels)) <= (allowed or set(known[name].exported_labels))


def test_strangers_see_nothing(server):
    assert server.stranger.get("/metrics").status_code == 401


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_it_is_only_read(server, method):
    assert getattr(server.http, method)("/metrics").status_code == 405
