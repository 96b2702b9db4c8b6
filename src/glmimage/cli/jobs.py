"""`glmimage jobs`: what waits, runs and has ended; retried, cancelled and deleted by hand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Aborted, InvalidRequest
from .answers import AsJson, ask, moment, parse_since, print_table
from .options import DataDir

if TYPE_CHECKING:
    from ..jobs import Job, JobStore

jobs = typer.Typer(
    name="jobs", help="See, retry, cancel and delete requests.", no_args_is_help=True
)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="As `jobs list` shows them.")]
STATES = "preparing, queued, running, done, failed, cancelled or dead"
TIMES = ("created_at", "started_at", "finished_at", "lease_until", "start_deadline")
WORDS = 60


@jobs.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help=f"Only one state: {STATES}.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show requests: those that wait in their order, all others the newest first."""
    from ..jobs.listing import LISTED

    if state is not None and state not in LISTED:
        raise InvalidRequest(f"--state is '{state}'; it must be {STATES}.", field="state")
    found: Sequence[Job] = ask(
        data_dir, lambda store: store.list_jobs(state, endpoint=endpoint, limit=limit)
    )
    if as_json:
        typer.echo(json.dumps([_describe(job) for job in found], ensure_ascii=False))
        return
    if not found:
        typer.echo("There are no requests." if state is None else f"No request is {state}.")
        return
    rows = [("id", "state", "stage", "attempts", "pictures", "asked", "took", "")]
    print_table([*rows, *(_row(job) for job in found)])


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="As `jobs list` shows it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a request: its input, its log, its files, its webhook."""
    document = ask(data_dir, lambda store: _all_of(store, job_id))
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    log, files, webhooks = (document.pop(name) for name in ("log", "files", "webhooks"))
    width = max(map(len, document))
    for name, value in document.items():
        if value not in (None, "", [], False):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            typer.echo(f"{name.ljust(width)}  {text}")
    for file in files:
        typer.echo(f"{'file'.ljust(width)}  {file['path']}  {file['size']} bytes")
    for hook in webhooks:
        told = f"{hook['state']}, {hook['attempts']} attempts, status {hook['status']}"
        typer.echo(
            f"{'webhook'.ljust(width)}  {hook['url']}  {told}  {hook['error'] or ''}".rstrip()
        )
    for entry in log:
        typer.echo(f"{entry['at']}  {entry['level'].ljust(5)}  {entry['message']}")


@jobs.command("retry")
def retry_jobs(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="As `jobs list` shows them.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All without attempts left.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Queue failed or cancelled requests again, with all their attempts."""
    if bool(ids) == dead:
        raise InvalidRequest("Name requests by their ids, or all dead ones with --dead.")
    outcomes = ask(data_dir, lambda store: _retry(store, ids or []))
    _report(outcomes, as_json, "queued again")


@jobs.command("cancel")
def cancel_jobs(ids: Ids, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Cancel requests; a worker lets go of one that is being painted within a moment."""
    _report(ask(data_dir, lambda store: _cancel(store, ids)), as_json, "cancelled")


@jobs.command("purge")
def purge_jobs(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="As `jobs list` shows them.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="DATE|SPAN", help="All that ended before 2026-01-31, or 12h, 7d, 4w ago."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete requests that have ended, with their inputs, results, logs and pictures."""
    if bool(ids) == (before is not None):
        raise InvalidRequest("Name requests by their ids, or older ones with --before.")
    until = None if before is None else parse_since(before, "before")
    what = f"all that ended before {moment(until)}" if until is not None else ", ".join(ids or [])
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidRequest("Deleting cannot be undone.", hint="Say --yes to do it.")
        if not typer.confirm(f"Delete {what}, pictures included?"):
            raise Aborted("Nothing was deleted.")
    if until is None:
        _report(ask(data_dir, lambda store: _purge(store, ids or [])), as_json, "deleted")
        return
    number = ask(data_dir, lambda store: _purge_before(store, until))
    typer.echo(json.dumps({"deleted": number}) if as_json else f"Deleted {number} requests.")


async def _all_of(store: JobStore, job_id: str) -> dict[str, Any]:
    job = await store.get(job_id)
    if job is None:
        raise _unknown(job_id)
    logs = await store.logs(job_id)
    return {
        **_describe(job),
        "position": await store.position(job_id),
        "input": job.input,
        "result": job.result,
        "log": [
            {"at": moment(entry.at), "level": entry.level, "message": entry.message}
            for entry in logs
        ],
        "files": [asdict(record) for record in await store.files_of(job_id)],
        "webhooks": [asdict(hook) for hook in await store.list_webhooks(job_id)],
    }


async def _retry(store: JobStore, ids: Sequence[str]) -> dict[str, str]:
    outcomes = {}
    for job_id in ids or [job.id for job in await store.list_jobs("dead", limit=10_000)]:
        if await store.retry(job_id) is not None:
            outcomes[job_id] = "queued again"
        else:
            job = await store.get(job_id)
            outcomes[job_id] = _why_not(job, "only failed and cancelled requests can be retried")
            if job is not None and job.ended and job.state != "done":
                outcomes[job_id] = "its input is deleted"
    return outcomes


async def _cancel(store: JobStore, ids: Sequence[str]) -> dict[str, str]:
    outcomes = {}
    for job_id in ids:
        answer = await store.cancel(job_id)
        job = await store.get(job_id)
        outcomes[job_id] = "cancelled" if answer == "requested" else _why_not(job, "it has ended")
    return outcomes


async def _purge(store: JobStore, ids: Sequence[str]) -> dict[str, str]:
    outcomes = {}
    for job_id in ids:
        job = await store.get(job_id)
        gone = await store.purge_jobs([job_id])
        outcomes[job_id] = "deleted" if gone else _why_not(job, "cancel it first")
    return outcomes


async def _purge_before(store: JobStore, until: float) -> int:
    number = 0
    while ids := await store.ended_before(until):
        number += len(await store.purge_jobs(ids))
    return number


def _why_not(job: Job | None, reason: str) -> str:
    return "there is no such request" if job is None else f"it is {job.state}: {reason}"


def _report(outcomes: dict[str, str], as_json: bool, well: str) -> None:
    """Print what became of each; end with code 2 when it went well with none."""
    if as_json:
        lines = [{"id": id, "ok": text == well, "outcome": text} for id, text in outcomes.items()]
        typer.echo(json.dumps(lines, ensure_ascii=False))
    elif not outcomes:
        typer.echo("There is none.")
    else:
        for job_id, text in outcomes.items():
            typer.echo(f"{job_id}  {text}", err=text != well)
    if outcomes and well not in outcomes.values():
        raise typer.Exit(2)


def _unknown(job_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"There is no request '{job_id}'.", hint="See them with: glmimage jobs list"
    )


def _describe(job: Job) -> dict[str, Any]:
    """Return what is stored of a job, without input and result, with times in words."""
    values = {name: getattr(job, name) for name in job.__slots__}
    for name in ("input", "result", "change_number", "last_log", "place"):
        del values[name]
    for name in TIMES:
        values[name] = None if values[name] is None else moment(values[name])
    return values


def _row(job: Job) -> tuple[str, ...]:
    end = job.finished_at or time.time()
    words = job.error or job.last_error or ""
    if job.state == "running":
        words = f"{round(100 * job.progress)} % by {job.worker_id or 'nobody yet'}"
    return (
        job.id,
        "dead" if job.dead else job.state,
        job.stage,
        f"{job.attempt}/{job.max_attempts}",
        f"{job.num_images} of {job.width}x{job.height}",
        moment(job.created_at),
        "" if job.started_at is None else f"{end - job.started_at:.1f} s",
        words if len(words) <= WORDS else f"{words[: WORDS - 1]}…",
    )
