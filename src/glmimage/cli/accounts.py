"""`glmimage keys` and `usage`: who may use the service, and what they have used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidRequest
from .answers import AsJson, ask, day, moment, parse_since, print_table
from .options import DataDir

if TYPE_CHECKING:
    from ..jobs import ApiKey, JobStore

keys = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)

SLICES = {"hour": 3600.0, "day": 86400.0}


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests in work at the same time, at most.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Requests a minute, at most.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; it is stored as a hash and cannot be shown again."""
    if not name.strip():
        raise InvalidRequest("A key needs a name.", field="name")
    text, _ = ask(data_dir, lambda store: store.create_key(name, concurrency, rate), create=True)
    typer.echo(text)


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show all keys, without their secrets."""
    found = ask(data_dir, lambda store: store.list_keys())
    if as_json:
        typer.echo(json.dumps([_describe(key) for key in found], ensure_ascii=False))
        return
    rows = [("id", "name", "ends in", "made", "limits", "")]
    rows += [
        (key.id, key.name, key.hint, day(key.created_at), _limits(key), _revoked(key))
        for key in found
    ]
    print_table(rows)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="As `keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key worthless; a running server knows it within seconds."""
    found = ask(data_dir, lambda store: _revoke(store, key))
    typer.echo(f"Revoked {found.id} ({found.name}).")


async def _revoke(store: JobStore, wanted: str) -> ApiKey:
    valid = [key for key in await store.list_keys() if key.revoked_at is None]
    found = [key for key in valid if key.id == wanted] or [k for k in valid if k.name == wanted]
    if not found:
        raise InvalidRequest(
            f"There is no valid key '{wanted}'.", hint="See them with: glmimage keys list"
        )
    if len(found) > 1:
        raise InvalidRequest(
            f"{len(found)} keys are called '{wanted}'.", hint="Name one by its id."
        )
    await store.revoke_key(found[0].id)
    return found[0]


def usage(
    since: Annotated[
        str, typer.Option(metavar="DATE|SPAN", help="2026-01-31, or such as 12h, 7d, 4w.")
    ] = "30d",
    per: Annotated[str | None, typer.Option(metavar="hour|day", help="Also by time.")] = None,
    by_key: Annotated[bool, typer.Option("--by-key", help="Also by key.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what was painted, in megapixels, and what it cost."""
    start = parse_since(since)
    if per is not None and per not in SLICES:
        raise InvalidRequest(f"--per is '{per}'; it must be hour or day.", field="per")
    slice_s = SLICES[per] if per else None
    found, names = ask(
        data_dir, lambda store: _sum_up(store, start, by_key=by_key, slice_s=slice_s)
    )
    lines = [
        {
            "endpoint": row.endpoint,
            **({"from": moment(row.start)} if per else {}),
            **({"key": names.get(row.api_key_id, "")} if by_key else {}),
            "requests": row.num_requests,
            "megapixels": round(row.megapixels, 3),
            "dollars_a_megapixel": row.unit_price,
            "dollars": round(row.cost, 4),
        }
        for row in found
    ]
    if as_json:
        typer.echo(json.dumps(lines, ensure_ascii=False))
    elif not lines:
        typer.echo(f"Nothing was used since {moment(start)}.")
    else:
        heads = tuple(name.replace("_a_", "/") for name in lines[0])
        total = sum(row.cost for row in found)
        print_table([heads, *(tuple(str(value) for value in line.values()) for line in lines)])
        typer.echo(f"Since {moment(start)}: ${total:.2f}")


async def _sum_up(
    store: JobStore, start: float, *, by_key: bool, slice_s: float | None
) -> tuple[Any, dict[str | None, str]]:
    rows = await store.usage(start, by_key=by_key, slice_s=slice_s)
    return rows, {key.id: key.name for key in await store.list_keys()}


def _describe(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "created": moment(key.created_at),
        "revoked": None if key.revoked_at is None else moment(key.revoked_at),
        "concurrency": key.concurrency,
        "rate": key.rate,
    }


def _limits(key: ApiKey) -> str:
    parts = []
    if key.concurrency is not None:
        parts.append(f"{key.concurrency} at a time")
    if key.rate is not None:
        parts.append(f"{key.rate:g} a minute")
    return ", ".join(parts)


def _revoked(key: ApiKey) -> str:
    return "" if key.revoked_at is None else f"revoked {day(key.revoked_at)}"
