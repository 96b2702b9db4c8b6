"""The form of every result: a card, and rows that put ours beside upstream.

    {"card": {"device", "versions", "commit", ...},
     "rows": [{"case", "metric", "ours", "upstream", "ratio", ...}, ...]}

Where there is no upstream, it and the ratio are null. A ratio above 1 is in our favour.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
CARD = ("device", "versions", "commit")
MEASURED = ("case", "metric", "ours")
# of all other metrics that are compared, less is better
MORE_IS_BETTER = (
    *("tokens_per_s", "tokens_per_pass", "pictures a second"),
    *("word_accuracy", "ned"),
)
Row = dict[str, Any]


def ratio(metric: str, ours: float, upstream: float) -> float | None:
    """Return how many times better ours is; None where a nought says nothing of it."""
    if metric in MORE_IS_BETTER:
        ours, upstream = upstream, ours
    return round(upstream / ours, 3) if ours else None


def row(
    case: str,
    metric: str,
    ours: float,
    upstream: float | None = None,
    *,
    digits: int = 4,
    **more: Any,
) -> Row:
    """Return one row; more: what else is known of it, such as `target`, what was to be reached."""
    found: Row = {"case": case, "metric": metric, "ours": round(ours, digits)}
    if upstream is None:
        return found | {"upstream": None, "ratio": None} | more
    found["upstream"] = round(upstream, digits)
    return found | {"ratio": ratio(metric, ours, upstream)} | more


def card(device: str | None = None, packages: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Say what was measured where. device: by default this processor. more: what else matters."""
    from glmimage import __version__

    versions = {"python": platform.python_version(), "glmimage": __version__}
    versions |= {name: version(name) for name in packages}
    return {
        "date": datetime.date.today().isoformat(),
        "device": device or processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": commit(),
        "command": command_line(sys.argv),
        **more,
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"cpu: {found[1] if found else platform.processor()}"


def commit() -> str | None:
    """Name the commit, and whether the code has changed since; None where nobody knows it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    # where the repository travels without its history, whoever runs this says what it is
    if told := os.environ.get("COMMIT"):
        return told
    code = ("src", "bench", ":!bench/results")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    head = git("rev-parse", "HEAD")[:12]
    return head + "+changes" * bool(changed) if head else None


def command_line(arguments: Sequence[str]) -> str:
    """Return the command, without the folder (--out) that the result is written to."""
    script, *kept = arguments
    for at, argument in reversed(list(enumerate(kept))):
        if argument == "--out" or argument.startswith("--out="):
            del kept[at : at + 1 + (argument == "--out")]
    # without it a script finds the queue.py beside it in place of the standard library's
    safe = ["-P"] * sys.flags.safe_path
    return shlex.join(["python", *safe, f"bench/{Path(script).name}", *kept])


def in_form(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result whose rows have every key; refuse one that says too little."""
    missing = [key for key in CARD if key not in result["card"]]
    missing += [key for key in MEASURED for one in result["rows"] if key not in one]
    if missing:
        raise ValueError(f"The result lacks {', '.join(sorted(set(missing)))}.")
    empty = {"upstream": None, "ratio": None}
    rows = [{key: one[key] for key in MEASURED} | empty | one for one in result["rows"]]
    return result | {"rows": rows}


def result_file(result: dict[str, Any], name: str, folder: Path = RESULTS) -> Path:
    """Return the file of a result: its day, what it ran on, and its name."""
    kind = re.sub(r"[^a-z0-9]+", "-", result["card"]["device"].lower()).strip("-")
    return folder / f"{result['card']['date']}-{kind}-{name}.json"


def write_result(result: dict[str, Any], name: str, folder: Path = RESULTS) -> None:
    """Write the JSON to a folder, by default bench/results/, and print it."""
    result, file = in_form(result), result_file(result, name, folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}", file=sys.stderr)
    print(json.dumps(result), flush=True)
