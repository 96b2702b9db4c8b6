"""Skip most of the decoder where little has changed since the last step: lossy, off by default.

The idea of first-block caching: what the first layer adds to the picture tells how much the others
would change, and where that is little, they add what they added last time.
"""

from __future__ import annotations

from torch import Tensor


class StepCache:
    """Remember one pass of one picture from step to step; num_skipped counts what it saved."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.num_skipped = threshold, 0
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def repeat(self, before: Tensor, after: Tensor) -> Tensor | None:
        """Return the picture behind the last layer, or None when it has to be computed.

        before, after: the picture (B, N, D) before and behind the first layer. It waits for the
        device.
        """
        first = after - before
        if self._first is not None and self._rest is not None:
            moved = (first - self._first).abs().mean() / self._first.abs().mean()
            if float(moved) < self.threshold:
                self.num_skipped += 1
                return after + self._rest
        self._first = first
        return None

    def remember(self, after: Tensor, last: Tensor) -> None:
        """Keep what the layers behind the first one added."""
        self._rest = last - after
