"""The command line: parse, call, print."""

from .app import app, run

__all__ = ["app", "run"]
