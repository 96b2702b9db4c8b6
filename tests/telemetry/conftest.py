"""The process's logging, put back after a test that sets it up anew."""

import io
import json
import logging

import pytest
import structlog

from glmimage.telemetry.logs import set_up_logging


class Log:
    """Set up logging into memory."""

    def __init__(self):
        self.stream = io.StringIO()

    def set_up(self, form="json", level="info"):
        set_up_logging(form, level, self.stream)
        return self

    @property
    def text(self):
        return self.stream.getvalue()

    @property
    def lines(self):
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log():
    root, ours = logging.getLogger(), logging.getLogger("glmimage")
    before = root.handlers[:], root.level, ours.level
    structlog.contextvars.clear_contextvars()
    yield Log()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    structlog.contextvars.clear_contextvars()
