"""Claim, paint, finish: the only code that knows both the engine and the job store."""

from .process import run_worker

__all__ = ["run_worker"]
