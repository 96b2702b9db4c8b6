"""One event a line, whatever wrote it; the request's id on each; nothing secret by accident."""

import asyncio
import logging

import pydantic
import pytest
from sqlalchemy.exc import IntegrityError

from glmimage.telemetry.logs import about_request, while_about

OURS = logging.getLogger("glmimage.somewhere")
OTHERS = logging.getLogger("elsewhere")
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_every_line_is_json_with_a_request_id(log):
    log.set_up()
    OURS.info("outside of %s", "requests")
    with while_about("r1", TRACE):
        OURS.warning("two\nlines", extra={"seconds": 0.5})
    OTHERS.warning("a library's")
    first, second, third = log.lines
    assert (first["event"], first["request_id"]) == ("outside of requests", None)
    assert "trace_id" not in first
    assert (second["event"], second["request_id"]) == ("two\nlines", "r1")
    assert (second["trace_id"], second["seconds"]) == ("a" * 32, 0.5)
    assert (second["level"], second["logger"]) == ("warning", "glmimage.somewhere")
    assert second["timestamp"].endswith("Z")
    assert third["request_id"] is None


def test_tasks_keep_their_requests_apart(log):
    log.set_up()

    async def work(name):
        about_request(name)
        for number in range(3):
            await asyncio.sleep(0)
            OURS.info("%s %d", name, number)

    async def both():
        await asyncio.gather(asyncio.create_task(work("a")), asyncio.create_task(work("b")))
        OURS.info("- after")

    asyncio.run(both())
    assert len(log.lines) == 7
    assert all((line["request_id"] or "-") == line["event"].split()[0] for line in log.lines)


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_traceback_does_not_show_values(log, form):
    log.set_up(form)
    prompt = "a secret " + "prompt"
    try:
        len(prompt) / 0
    except ZeroDivisionError:
        OURS.exception("it failed")
    assert "ZeroDivisionError" in log.text
    assert "test_logs.py" in log.text
    assert prompt not in log.text


@pytest.mark.parametrize("form", ["json", "human"])
def test_what_libraries_say_of_values_is_left_out(log, form):
    """Database errors show the row, errors of validation the input; also where they led to more."""
    log.set_up(form)
    prompt = "a secret " + "prompt"
    with pytest.raises(pydantic.ValidationError) as invalid:
        pydantic.TypeAdapter(int).validate_python(prompt)
    wrong = IntegrityError("INSERT INTO jobs", {"input": prompt}, Exception("no such row"))
    assert all(prompt in str(error) for error in (invalid.value, wrong))
    try:
        raise ExceptionGroup("two", [wrong, ValueError("another")]) from invalid.value
    except ExceptionGroup:
        OURS.exception("it failed")
    for told in ("ValidationError: 1 ", "IntegrityError", "no such row", "ValueError: another"):
        assert told in log.text
    assert prompt not in log.text


def test_for_people_a_line_begins_with_its_time_and_has_no_colours_in_a_file(log):
    log.set_up("human")
    with while_about("r1"):
        OURS.info("Request taken, %d ahead", 3)
    (line,) = log.text.splitlines()
    assert line[:2] == "20"
    assert "Request taken, 3 ahead" in line
    assert "request_id=r1" in line
    assert "\x1b" not in line


def test_the_level_is_ours_and_libraries_are_quiet(log):
    log.set_up(level="debug")
    OURS.debug("seen")
    OTHERS.info("not seen")
    log.set_up(level="error")
    OURS.warning("not seen")
    assert [line["event"] for line in log.lines] == ["seen"]
