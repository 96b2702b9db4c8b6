"""Prompt expansion and moderation, through endpoints that answer well, badly, or not at all."""

import asyncio
import json

import httpx2
import pytest

from glmimage.errors import InvalidSettings
from glmimage.policy import Endpoint, NotConfigured, PromptExpander, ServiceUnavailable, open_policy
from glmimage.policy.expansion import why_not_usable
from glmimage.policy.moderation import Moderator

pytestmark = pytest.mark.anyio
PROMPT = "a poster 'OPEN' with “Café”"
RICH = "A sunny street with a poster that reads 'OPEN' and “Café” in bold letters"


class Service:
    """Answer as an OpenAI-compatible endpoint; `answer` is a status and a body, or a failure."""

    def __init__(self, answer, status=200):
        self.answer, self.status, self.requests = answer, status, []

    async def __call__(self, request):
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer == "hang":
            await asyncio.sleep(60)
        if isinstance(self.answer, bytes):
            return httpx2.Response(self.status, content=self.answer)
        return httpx2.Response(self.status, json=self.answer)

    def endpoint(self, base_url="http://llm.example/v1/", timeout_s=5.0):
        transport = httpx2.MockTransport(self)
        return Endpoint(base_url, "a-model", "sk-secret", timeout_s, transport=transport)


def chat(text):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def moderated(flagged, **categories):
    return {"id": "x", "results": [{"flagged": flagged, "categories": categories}]}


async def test_a_prompt_is_expanded():
    service = Service(chat(f"  {RICH}\n"))
    expansion = await PromptExpander(service.endpoint()).expand_prompt(PROMPT)
    assert (expansion.prompt, expansion.expanded, expansion.note) == (RICH, True, "")
    (request,) = service.requests
    assert str(request.url) == "http://llm.example/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-secret"
    body = json.loads(request.content)
    assert body["model"] == "a-model"
    assert body["messages"][-1] == {"role": "user", "content": PROMPT}


async def test_thinking_aloud_is_cut():
    service = Service(chat(f"<think>maybe 'CLOSED'?</think>\n{RICH}"))
    assert (await PromptExpander(service.endpoint()).expand_prompt(PROMPT)).prompt == RICH


async def test_apostrophes_are_not_taken_for_quotes():
    service = Service(chat("It's the baker's poster 'OPEN' with “Café”, the day's best"))
    expansion = await PromptExpander(service.endpoint()).expand_prompt(PROMPT)
    assert expansion.prompt == "It’s the baker’s poster 'OPEN' with “Café”, the day’s best"
    service.answer = chat("the dog's bone and the cat's bowl")
    expansion = await PromptExpander(service.endpoint()).expand_prompt("a dog and a cat")
    assert expansion.prompt == "the dog’s bone and the cat’s bowl"
    service.answer = chat("It's 'don't' in red")
    assert not (await PromptExpander(service.endpoint()).expand_prompt("a sign 'dont'")).expanded


@pytest.mark.parametrize(
    "answer",
    [
        "A poster that reads 'Open' and “Café”",
        "A poster that reads 'OPEN'",
        "A poster that reads “Café” and 'OPEN' and 'NOW'",
        'A poster that reads "OPEN" and “Café”',
        "A poster that reads 'OPEN ' and “Café”",
        "A poster that reads OPEN and Café",
        "It is the bakers' poster 'OPEN' with “Café”",
        f'"{RICH}"',
        "",
        "   ",
        "<think>only thoughts</think>",
        RICH + " very" * 1000,
    ],
)
async def test_changed_quotes_leave_the_original(answer):
    expansion = await PromptExpander(Service(chat(answer)).endpoint()).expand_prompt(PROMPT)
    assert (expansion.prompt, expansion.expanded) == (PROMPT, False)
    assert expansion.note.startswith("The original prompt is used: the expansion")


def test_the_order_of_quotes_matters():
    assert why_not_usable("'A' 'B'", "x 'A' y 'B'") == ""
    assert why_not_usable("'A' 'B'", "x 'B' y 'A'") != ""
    assert why_not_usable("'A' 'A'", "x 'A'") != ""
    assert why_not_usable("no quotes", "still none") == ""


@pytest.mark.parametrize(
    "quoted", ["«Открыто»", "„Offen“", "‘Open’", "『開店』", "《开业》", "“a «b» c”"]
)
def test_quotes_that_the_model_does_not_know_are_kept_as_well(quoted):
    prompt = f"a sign {quoted} over a door"
    assert why_not_usable(prompt, f"a large sign {quoted} in gold over a door") == ""
    assert why_not_usable(prompt, f"a sign {quoted[:-2]}{quoted[-1]} over a door") != ""
    assert why_not_usable(prompt, "a sign over a door") != ""


async def test_a_fence_around_the_answer_is_taken_off():
    service = Service(chat(f"```text\n{RICH}\n```"))
    assert (await PromptExpander(service.endpoint()).expand_prompt(PROMPT)).prompt == RICH


FAILURES = [
    (Service({}, 500), "status 500"),
    (Service({"error": {"message": "bad key sk-secret"}}, 401), "status 401"),
    (Service({}), "no text"),
    (Service({"choices": []}), "no text"),
    (Service({"choices": [{"message": {"content": None}}]}), "no text"),
    (Service([1]), "no text"),
    (Service(b"<html>"), "not JSON"),
    (Service(b"\xff\xfe"), "not JSON"),
    (Service(b"x" * 2_000_000), "too long"),
    (Service(httpx2.ConnectError("refused")), "could not be reached"),
    (Service(httpx2.ReadTimeout("slow")), "could not be reached"),
    (Service(OSError("network is down")), "could not be reached"),
]


@pytest.mark.parametrize(("service", "reason"), FAILURES, ids=lambda value: str(value)[:20])
async def test_a_failing_endpoint_leaves_the_original_and_says_so(service, reason):
    expansion = await PromptExpander(service.endpoint()).expand_prompt(PROMPT)
    assert (expansion.prompt, expansion.expanded) == (PROMPT, False)
    assert reason in expansion.note
    assert "sk-secret" not in expansion.note


@pytest.mark.parametrize(("service", "reason"), FAILURES, ids=lambda value: str(value)[:20])
async def test_a_failing_endpoint_is_an_error_by_setting(service, reason):
    expander = PromptExpander(service.endpoint(), on_failure="error")
    with pytest.raises(ServiceUnavailable, match=reason) as caught:
        await expander.expand_prompt(PROMPT)
    assert caught.value.code == "downstream_service_unavailable"
    assert "sk-secret" not in caught.value.message


async def test_a_hanging_endpoint_is_given_up():
    expander = PromptExpander(Service("hang").endpoint(timeout_s=0.05))
    assert "within 0.05 seconds" in (await expander.expand_prompt(PROMPT)).note


async def test_no_endpoint_is_told():
    expansion = await PromptExpander(None).expand_prompt(PROMPT)
    assert expansion.prompt == PROMPT
    assert "not configured" in expansion.note
    with pytest.raises(NotConfigured, match="not configured") as caught:
        await PromptExpander(None, on_failure="error").expand_prompt(PROMPT)
    assert caught.value.code == "feature_not_supported"


async def test_moderation_lets_pass_and_refuses():
    service = Service(moderated(False, violence=False))
    assert await Moderator(service.endpoint()).moderate(PROMPT) is None
    assert str(service.requests[0].url) == "http://llm.example/v1/moderations"
    assert json.loads(service.requests[0].content) == {"model": "a-model", "input": PROMPT}
    service.answer = moderated(True, violence=True, harassment=False, hate=True)
    refusal = await Moderator(service.endpoint()).moderate(PROMPT)
    assert refusal.kind == "hate"
    service.answer = {"results": [{"flagged": False}, {"flagged": True, "categories": {"a": True}}]}
    assert (await Moderator(service.endpoint()).moderate(PROMPT)).kind == "a"
    service.answer = {"results": [{"flagged": True}]}
    assert (await Moderator(service.endpoint()).moderate(PROMPT)).kind == "flagged"


@pytest.mark.parametrize(
    "service",
    [
        Service({}, 503),
        Service({}),
        Service({"results": []}),
        Service({"results": [{"flagged": "no"}]}),
        Service({"results": [{"flagged": False, "categories": 7}]}),
        Service([]),
        Service(b"<html>"),
        Service(OSError("down")),
    ],
    ids=lambda service: str(service.answer)[:20],
)
async def test_a_failing_moderation_is_an_error_unless_allowed(service, caplog):
    with pytest.raises(ServiceUnavailable, match="could not be checked"):
        await Moderator(service.endpoint()).moderate(PROMPT)
    caplog.clear()
    assert await Moderator(service.endpoint(), on_failure="allow").moderate(PROMPT) is None
    assert "without moderation" in caplog.text


async def test_the_policy_counts_what_either_refuses():
    service = Service(moderated(True, hate=True))
    policy = open_policy(moderation=service.endpoint())
    assert policy.moderates
    assert policy.check_prompt("p0rn").kind == "sexual"
    assert (await policy.moderate_prompt("fine by the terms")).kind == "hate"
    assert policy.prompts.refusals == {"sexual": 1, "hate": 1}
    await policy.close()
    assert not open_policy().moderates
    assert await open_policy().moderate_prompt("anything") is None


@pytest.mark.parametrize("url", ["", "llm.example/v1", "file:///x", "localhost:11434"])
def test_an_endpoint_needs_an_address(url):
    with pytest.raises(InvalidSettings, match="no address"):
        Endpoint(url, "m")
