"""The durable store and queue: jobs, keys, files, webhooks, usage, workers. No torch here."""

from .errors import LeaseLost, QueueFull, StoreOutdated, StoreUnavailable, WrongState
from .records import (
    AWAITED,
    ApiKey,
    Beat,
    BillingEvent,
    CancelAnswer,
    Claim,
    FileRecord,
    Job,
    LogEntry,
    NewJob,
    Prior,
    Stage,
    State,
    Usage,
    UsageRow,
    Webhook,
    Worker,
)
from .store import JobStore

__all__ = [
    "AWAITED",
    "ApiKey",
    "Beat",
    "BillingEvent",
    "CancelAnswer",
    "Claim",
    "FileRecord",
    "Job",
    "JobStore",
    "LeaseLost",
    "LogEntry",
    "NewJob",
    "Prior",
    "QueueFull",
    "Stage",
    "State",
    "StoreOutdated",
    "StoreUnavailable",
    "Usage",
    "UsageRow",
    "Webhook",
    "Worker",
    "WrongState",
]
