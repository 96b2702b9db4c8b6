"""How long a file lives and who may read it, from the lifecycle a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def expiry_and_acl(
    lifecycle: Mapping[str, Any] | None, default_s: float, now: float
) -> tuple[float | None, dict[str, Any] | None]:
    """Return (expires, acl) of a new file. default_s: what holds without a wish; 0 is forever.

    A wish of 0 or null seconds means that the file never expires; acl None is everybody's.
    """
    seconds: float | None = default_s
    acl: dict[str, Any] | None = None
    if lifecycle is not None:
        if "expiration_duration_seconds" in lifecycle:
            seconds = lifecycle["expiration_duration_seconds"]
        acl = lifecycle.get("initial_acl")
    return (now + seconds if seconds else None), acl


def may_read(acl: Mapping[str, Any] | None, owner: str | None, users: tuple[str, ...]) -> str:
    """Return the decision "allow", "forbid" or "hide" for a caller.

    users: the names a rule may know the caller by, his key's id first; () for a stranger.
    """
    if not acl or (owner is not None and owner in users):
        return "allow"
    for rule in acl.get("rules") or ():
        if rule.get("user") in users:
            return str(rule.get("decision"))
    return str(acl.get("default", "allow"))
