"""What the handlers share: one value, made once, passed to each."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import Settings
from ..files import FileStore, SigningStore
from ..jobs import JobStore
from ..policy.policy import Policy
from ..telemetry.tracing import Tracer, open_tracer
from .addresses import Addresses
from .auth import KeyRing
from .capacity import Capacity
from .counters import Counters
from .live_jobs import LiveJobs
from .secret import load_secret
from .signing import Signer
from .storage_check import StorageCheck
from .storage_settings import StorageSettings
from .stored_files import StoredFiles


@dataclass(frozen=True)
class Services:
    settings: Settings
    store: JobStore
    files: FileStore
    policy: Policy
    secret: bytes = field(init=False, repr=False)
    addresses: Addresses = field(init=False)
    keys: KeyRing = field(init=False)
    live: LiveJobs = field(init=False)
    capacity: Capacity = field(init=False)
    signer: Signer = field(init=False, repr=False)
    stored_files: StoredFiles = field(init=False)
    storage_settings: StorageSettings = field(init=False)
    storage_check: StorageCheck = field(init=False)
    tracer: Tracer = field(init=False)
    bucket: SigningStore | None = field(init=False)
    """Where clients read and store files without us; None when all goes through us."""
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        secret, live = load_secret(self.settings), LiveJobs(self.store)
        straight = self.settings.files_access == "bucket"
        bucket = self.files if straight and isinstance(self.files, SigningStore) else None
        for name, part in (
            ("secret", secret),
            ("addresses", Addresses(self.settings)),
            ("keys", KeyRing(self.store, required=self.settings.auth)),
            ("live", live),
            ("capacity", Capacity(self.settings, self.store, live)),
            ("signer", Signer(secret)),
            ("stored_files", StoredFiles(self.store)),
            ("storage_settings", StorageSettings(self.store)),
            ("storage_check", StorageCheck(self.files)),
            ("bucket", bucket),
            ("tracer", open_tracer(self.settings.traces_url, "glmimage-gateway")),
        ):
            object.__setattr__(self, name, part)
