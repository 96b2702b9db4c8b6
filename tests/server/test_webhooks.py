"""Webhooks reach their receiver: signed, guarded, tried again, and once more after a restart."""

import asyncio
import base64
import hashlib
import http.server
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from glmimage.policy import open_policy
from glmimage.server import webhooks
from glmimage.server.counters import Counters
from glmimage.server.webhooks import WebhookSender

TIMEOUT_S = 15


class Receiver:
    """Listen on a port of this machine; answer with `statuses` in turn, the last one for ever."""

    def __init__(self):
        self.statuses, self.received = [200], []
        self.came = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with receiver.came:
                    statuses = receiver.statuses
                    status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
                    receiver.received.append((dict(self.headers.items()), body))
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", self.path + "/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    receiver.came.notify_all()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, count):
        with self.came:
            assert self.came.wait_for(lambda: len(self.received) >= count, 20)
        return self.received

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def hooked(serve):
    """Serve with webhooks to this machine allowed."""
    return serve(open_policy(allowed_webhooks=["127.0.0.1"]))


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(webhooks, "FIRST_DELAY_S", 0.02)


def submit(server, receiver, prompt="a square", **fields):
    return server.submit(prompt, query={"fal_webhook": receiver.url}, **fields)["request_id"]


def delivery(server, request_id, state):
    """Wait until the outbox shows the only delivery of a request in this state."""

    def found():
        (webhook,) = server.call(server.store.list_webhooks(request_id)) or [None]
        return webhook if webhook is not None and webhook.state == state else None

    return server.until(found)


def verify(server, headers, body):
    """Check a delivery as fal tells receivers to; raise InvalidSignature."""
    headers = {name.lower(): value for name, value in headers.items()}
    message = "\n".join(
        (
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(body).hexdigest(),
        )
    ).encode()
    assert abs(int(headers["x-fal-webhook-timestamp"]) - time.time()) < 300
    (key,) = server.stranger.get("/rest/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    public = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
    Ed25519PublicKey.from_public_bytes(public).verify(
        bytes.fromhex(headers["x-fal-webhook-signature"]), message
    )
    return headers


def test_a_result_is_delivered_and_signed(hooked, receiver):
    request_id = submit(hooked, receiver, seed=5)
    ((headers, body),) = receiver.wait(1)
    headers = verify(hooked, headers, body)
    assert headers["content-type"] == "application/json"
    assert headers["x-fal-webhook-request-id"] == request_id
    assert headers["x-fal-webhook-user-id"] == hooked.key_record.id
    told = json.loads(body)
    assert (told["request_id"], told["gateway_request_id"]) == (request_id, request_id)
    assert (told["status"], told["error"]) == ("OK", None)
    assert told["payload"] == hooked.result(request_id).json()
    assert hooked.stranger.get(told["payload"]["images"][0]["url"]).status_code == 200
    webhook = delivery(hooked, request_id, "delivered")
    assert (webhook.attempts, webhook.status, webhook.next_attempt) == (1, 200, None)
    assert hooked.app.webhooks.outcomes == {"delivered": 1}


def test_deliveries_follow_the_end_of_a_job_and_of_each_other(serve, receiver, monkeypatch):
    """None waits for the next look at the outbox, not even where there is room for one only."""
    monkeypatch.setattr(webhooks, "POLL_S", 600.0)
    monkeypatch.setattr(webhooks, "AT_ONCE", 1)
    hooked = serve(open_policy(allowed_webhooks=["127.0.0.1"]))
    for seed in range(3):
        submit(hooked, receiver, seed=seed)
    receiver.wait(3)


def test_a_changed_body_does_not_verify(hooked, receiver):
    submit(hooked, receiver)
    ((headers, body),) = receiver.wait(1)
    with pytest.raises(InvalidSignature):
        verify(hooked, headers, body + b" ")


@pytest.mark.parametrize(
    ("prompt", "fields", "status", "kind"),
    [
        ("crash", {}, 500, "internal_server_error"),
        ("a square", {"num_images": 9}, 422, "less_than_equal"),
        ("a nude woman", {}, 422, "content_policy_violation"),
    ],
)
def test_failures_are_delivered(hooked, receiver, prompt, fields, status, kind):
    request_id = submit(hooked, receiver, prompt, **fields)
    ((headers, body),) = receiver.wait(1)
    verify(hooked, headers, body)
    told = json.loads(body)
    assert (told["status"], told["error"]) == ("ERROR", f"Invalid status code: {status}")
    assert told["payload"]["detail"][0]["type"] == kind
    assert told["payload"] == hooked.result(request_id).json()


def test_a_cancelled_request_is_delivered(hooked, receiver):
    hooked.tell(hooked.worker.awake.clear)
    request_id = submit(hooked, receiver)
    hooked.http.put(f"/queue/fal-ai/glm-image/requests/{request_id}/cancel")
    ((_, body),) = receiver.wait(1)
    assert json.loads(body)["error"] == "Invalid status code: 499"


def test_a_failing_receiver_is_tried_again_with_a_fresh_signature(hooked, receiver, hasty):
    receiver.statuses = [500, 404, 201]
    request_id = submit(hooked, receiver)
    received = receiver.wait(3)
    assert len({body for _, body in received}) == 1
    for headers, body in received:
        verify(hooked, headers, body)
    webhook = delivery(hooked, request_id, "delivered")
    assert (webhook.attempts, webhook.status) == (3, 201)
    assert hooked.app.webhooks.outcomes == {"retried": 2, "delivered": 1}


def test_it_is_given_up_when_the_window_is_over(serve, receiver, hasty):
    server = serve(open_policy(allowed_webhooks=["127.0.0.1"]), webhook_window_s=2.0)
    receiver.statuses = [503]
    request_id = submit(server, receiver)
    webhook = delivery(server, request_id, "failed")
    assert (webhook.status, webhook.next_attempt) == (503, None)
    assert webhook.error == "The receiver refused it: status 503."
    assert webhook.attempts >= 2
    assert server.result(request_id).status_code == 200


def test_a_redirect_is_a_failure_for_good(hooked, receiver):
    receiver.statuses = [302]
    webhook = delivery(hooked, submit(hooked, receiver), "failed")
    assert (webhook.attempts, webhook.error) == (1, "Redirects are not followed: status 302.")
    assert len(receiver.received) == 1


def test_private_receivers_are_refused_unless_allowed(serve, receiver):
    server = serve()
    webhook = delivery(server, submit(server, receiver), "failed")
    assert "private" in webhook.error
    assert receiver.received == []


def test_an_unreachable_receiver_does_not_hurt_the_request(hooked, receiver, hasty):
    receiver.close()
    receiver._server.server_close = lambda: None
    request_id = submit(hooked, receiver)
    assert hooked.result(request_id).status_code == 200
    webhook = hooked.until(
        lambda: (found := hooked.call(hooked.store.list_webhooks(request_id))[0]).attempts and found
    )
    assert "could not be reached" in webhook.error


def test_the_outbox_survives_a_restart(hooked, receiver):
    """Stop the sender, finish a request, and start another sender: the delivery is still there."""
    hooked.call(hooked.app.webhooks.stop())
    request_id = submit(hooked, receiver)
    hooked.completed(request_id)
    assert receiver.received == []
    another = WebhookSender(hooked.services)
    hooked.tell(another.start)
    receiver.wait(1)
    delivery(hooked, request_id, "delivered")
    hooked.call(another.stop())


def test_a_mistake_ends_no_duty(hooked, receiver, monkeypatch):
    ask, failures = hooked.store.next_webhook_at, []

    async def fail_once():
        if not failures:
            failures.append(1)
            raise RuntimeError("a mistake")
        return await ask()

    monkeypatch.setattr(hooked.store, "next_webhook_at", fail_once)
    hooked.until(lambda: failures)
    delivery(hooked, submit(hooked, receiver), "delivered")


def test_stopping_hands_a_delivery_under_way_back(hooked, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "STOP_S", 0.05)
    with receiver.came:  # the receiver hangs while we hold this
        request_id = submit(hooked, receiver)
        hooked.until(lambda: hooked.app.webhooks._under_way)
        hooked.call(hooked.app.webhooks.stop())
        (webhook,) = hooked.call(hooked.store.list_webhooks(request_id))
        assert (webhook.state, webhook.error) == ("pending", "The server was stopped.")
        assert webhook.next_attempt <= time.time()


@pytest.mark.parametrize("turns", range(4))
def test_stopping_as_it_is_woken(hooked, turns):
    """However many turns of the event loop lie between what wakes the sender and its end."""

    async def wake_and_stop():
        hooked.app.webhooks._look.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        await hooked.app.webhooks.stop()

    hooked.call(wake_and_stop())


def test_the_key_is_served_without_a_key_of_ones_own(server):
    own = server.stranger.get("/.well-known/jwks.json")
    rest = server.stranger.get("/rest/.well-known/jwks.json")
    named = server.stranger.get("/.well-known/jwks.json", headers={"host": "rest.fal.ai"})
    assert own.json() == rest.json() == named.json()
    assert "max-age" in own.headers["cache-control"]


def test_retries_fill_two_hours_and_no_more(monkeypatch):
    """Ten of them at growing distances, as the older page of fal says."""
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 1.0)
    delays = [webhooks.FIRST_DELAY_S * 2**attempt for attempt in range(10)]
    assert sum(delays) <= 7200 < sum(delays) + webhooks.FIRST_DELAY_S * 2**10


@pytest.mark.parametrize("window_s", [0.0, 5.0, 60.0, 7200.0, 86400.0])
def test_no_retry_is_further_away_than_the_longest(window_s):
    """What seems to be is from a clock that was put back since."""
    settings = SimpleNamespace(webhook_window_s=window_s)
    sender = WebhookSender(SimpleNamespace(settings=settings, counters=Counters()))
    longest = webhooks.longest_delay_s(window_s)
    for _ in range(200):
        now, webhook = 0.0, SimpleNamespace(created_at=0.0, attempts=0)
        while (at := sender._next_attempt(webhook, now)) is not None:
            assert at - now <= longest
            now, webhook.attempts = at, webhook.attempts + 1
    assert longest <= max(window_s, webhooks.FIRST_DELAY_S)


def test_names_that_nobody_answers_hold_up_nothing_else(serve, monkeypatch):
    """Strangers choose the receivers' names; files and pictures must not wait for a name server."""
    answered = threading.Event()
    ask = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if str(host).endswith(".example.org"):
            answered.wait(TIMEOUT_S)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server = serve()
    try:
        for index in range(webhooks.AT_ONCE):
            query = {"fal_webhook": f"https://{index}.example.org/hook"}
            server.submit("a square", num_images=9, query=query)
        server.until(
            lambda: (
                sum(thread.name == "resolve" for thread in threading.enumerate())
                == webhooks.AT_ONCE
            )
        )
        picture = server.result(server.submit("a square")["request_id"]).json()["images"][0]
        assert server.stranger.get(picture["url"]).status_code == 200
    finally:
        answered.set()
