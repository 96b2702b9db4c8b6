"""What the job store refuses.

GlmImageError
├── QueueFull          more requests wait for the endpoint than the caller accepts
├── LeaseLost          another worker owns the job now, or it has ended
├── WrongState         the job is ours, but not at a point where this may be done with it
├── StoreUnavailable   the database does not answer, is full or is locked for too long
└── StoreOutdated      the database was written by a newer version of this package
"""

from ..errors import GlmImageError


class QueueFull(GlmImageError):
    """Refuse a job; `queue_length` jobs wait already."""

    code = "queue_full"

    def __init__(self, queue_length: int, limit: int) -> None:
        super().__init__(
            f"{queue_length} requests wait already, and at most {limit} are accepted.",
            hint="Try again later.",
        )
        self.queue_length, self.limit = queue_length, limit


class LeaseLost(GlmImageError):
    code = "lease_lost"


class WrongState(GlmImageError):
    code = "wrong_state"


class StoreUnavailable(GlmImageError):
    code = "store_unavailable"


class StoreOutdated(GlmImageError):
    code = "store_outdated"
