"""The frozen values that enter and leave the job store. Times are unix seconds, ids are uuid4 text.

A job is in one of these states, and its next piece of work is its stage:

    preparing -> queued -> running -> done | failed | cancelled
    prepare      prior     prior, then decode

A job that comes back (its worker died, failed in passing, or stopped) is queued again, at its old
place and with what it has got so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["preparing", "queued", "running", "done", "failed", "cancelled"]
Stage = Literal["prepare", "prior", "decode"]
Priority = Literal["normal", "low"]
Surface = Literal["queue", "run", "stream", "realtime", "openai"]
Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]
CancelAnswer = Literal["requested", "done", "missing"]

REUSE_FIELD = "reuse"
"""Of a job's input: false when its caller wants nothing of an equal request."""
PREVIEW_FIELD = "preview"
"""Of a job's input: how many previews of each picture its caller asked for."""
MAX_PREVIEWS = 3
ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})
WAITING: frozenset[str] = frozenset({"preparing", "queued"})
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewJob:
    """Ask for a picture.

    input: as validated, JSON. width, height: px. start_deadline: after it the job fails unless a
    worker has begun. max_queue_length: refuse when more jobs wait for the endpoint. lifecycle: the
    caller's wish for the expiry and ACL of the pictures. store_io: keep input and output in the
    history. max_attempts: how often a worker may begin. cache_key, prior_key: what equal requests
    share; see `find_cached_result` and `find_cached_prior`. id: None draws one. trace_context: W3C
    traceparent of the trace that the job belongs to.
    """

    endpoint: str
    input: Document
    api_key_id: str | None = None
    priority: Priority = "normal"
    num_images: int = 1
    width: int = 1024
    height: int = 1024
    seed: int = 0
    start_deadline: float | None = None
    max_queue_length: int | None = None
    webhook_url: str | None = None
    lifecycle: Document | None = None
    store_io: bool = True
    max_attempts: int = 3
    needs_preparation: bool = False
    surface: Surface = "queue"
    cache_key: str | None = None
    prior_key: str | None = None
    reference_file_ids: tuple[str, ...] = ()
    id: str | None = None
    trace_context: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Show a job as it is stored.

    number: counts up with every job. place: the queue is ordered by (place, number). attempt: how
    often a worker has begun; fence: how often it was claimed. status: HTTP status of the answer,
    None until the job has ended. error, error_type: in words and for programs, of a job that failed
    or was cancelled. last_error: why the latest attempt came to nothing. dead: failed because no
    attempt is left. served_from: "cache" or "fallback" when no worker has worked for it.
    progress: 0 to 1. last_log: number of its newest log entry, 0 without one. change_number: of the
    latest change to the job or its logs.
    input, result: the request, and the answer: of a job that is done the pictures and what belongs
    to them, of another that has ended its error body. Both are None once they are deleted, and in
    what `changes_since` gives.
    """

    number: int
    id: str
    endpoint: str
    surface: Surface
    api_key_id: str | None
    state: State
    stage: Stage
    priority: Priority
    place: int
    num_images: int
    width: int
    height: int
    seed: int
    created_at: float
    start_deadline: float | None
    started_at: float | None
    finished_at: float | None
    attempt: int
    max_attempts: int
    fence: int
    worker_id: str | None
    lease_until: float | None
    cancel_requested: bool
    status: int | None
    error: str | None
    error_type: str | None
    last_error: str | None
    dead: bool
    served_from: str | None
    webhook_url: str | None
    lifecycle: Document | None
    store_io: bool
    cache_key: str | None
    prior_key: str | None
    reference_file_ids: tuple[str, ...]
    model_revision: str | None
    progress: float
    last_log: int
    change_number: int
    trace_context: str | None
    input: Document | None = None
    result: Document | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def megapixels(self) -> float:
        """Return what the pictures measure together, in 10**6 px."""
        return self.num_images * self.width * self.height / 1e6


@dataclass(frozen=True, slots=True)
class Prior:
    """Keep the tokens of one picture. large_grid: (height, width) in tokens."""

    image_index: int
    large_grid: tuple[int, int]
    prior_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold the right to work on a job until the lease ends; `fence` proves it to the store."""

    job: Job
    worker_id: str
    fence: int
    attempt: int
    priors: tuple[Prior, ...] = ()


@dataclass(frozen=True, slots=True)
class Beat:
    """Answer a heartbeat with ids of jobs: lost to others, and to be cancelled."""

    lost: frozenset[str] = frozenset()
    cancelled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogEntry:
    number: int
    job_id: str
    at: float
    level: Level
    message: str


AWAITED = "awaited"
"""The kind of an upload that goes straight to the bucket, until it is known to have come."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Describe a stored file.

    size: bytes. kind: "output", "upload", "reference", "preview" or AWAITED; owner: a key.
    """

    id: str
    path: str
    content_type: str
    size: int
    name: str
    created: float
    expires: float | None = None
    acl: Document | None = None
    owner: str | None = None
    kind: str = "output"
    job_id: str | None = None


def preview_name(image_index: int, number: int) -> str:
    """Return the file name of a picture's preview; `preview_place` reads it. Both from 0."""
    return f"preview-{image_index}-{number}.jpg"


def preview_place(name: str) -> tuple[int, int]:
    """Return whose preview a file is, and which of that picture's, from its name."""
    image_index, _, number = name.removeprefix("preview-").removesuffix(".jpg").partition("-")
    return int(image_index), int(number or 0)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Describe a key without its secret. rate: requests a minute; hint: its last characters."""

    id: str
    name: str
    hint: str
    created_at: float
    revoked_at: float | None = None
    concurrency: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Describe one delivery of the outbox: pending, delivered or failed for good."""

    id: str
    job_id: str
    url: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    created_at: float
    next_attempt: float | None
    finished_at: float | None
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Say what a finished job costs. unit_price: dollars a megapixel; duration_s: of the work."""

    megapixels: float
    unit_price: float
    duration_s: float = 0.0

    @property
    def cost(self) -> float:
        return self.megapixels * self.unit_price


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sum up usage: of an endpoint and price, of a key, of a slice of time, as was asked."""

    endpoint: str
    api_key_id: str | None
    start: float
    num_requests: int
    megapixels: float
    unit_price: float
    cost: float


@dataclass(frozen=True, slots=True)
class BillingEvent:
    job_id: str
    endpoint: str
    api_key_id: str | None
    at: float
    megapixels: float
    unit_price: float
    cost: float


@dataclass(frozen=True, slots=True)
class Worker:
    """Show a worker as it last reported itself. info: device, version ... ."""

    id: str
    stages: tuple[Stage, ...]
    model: str
    model_revision: str
    ready: bool
    started_at: float
    seen_at: float
    info: Mapping[str, Any] = field(default_factory=dict)
