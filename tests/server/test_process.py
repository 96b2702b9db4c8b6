"""What the server process tells the command line."""

import asyncio
from types import SimpleNamespace

from glmimage.jobs import StoreUnavailable
from glmimage.server import process


class Store:
    """Be away for two questions, then know a worker, which is ready the second time."""

    def __init__(self):
        self.answers = [StoreUnavailable("away"), 1.0, StoreUnavailable("away"), 1.0, [False], 1.0]
        self.answers += [[True]]

    async def now(self):
        return self._next()

    async def live_workers(self, since):
        return [SimpleNamespace(ready=ready) for ready in self._next()]

    def _next(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_store_that_is_away_for_a_while_does_not_keep_ready_from_being_told(monkeypatch):
    monkeypatch.setattr(process, "READY_CHECK_S", 0.0)
    told, store = [], Store()
    tell = process.Callbacks(lambda started: None, told.append, lambda: None)
    asyncio.run(process._tell_ready(store, 0.0, tell))
    assert len(told) == 1
    assert store.answers == []
