"""Keys and usage on the command line, against a real store."""

import asyncio
import json
import os
import re

import pytest

from glmimage.cli import run
from glmimage.config import load_settings
from glmimage.jobs import JobStore, NewJob, Usage


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GLMIMAGE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def printed(capsys, *arguments):
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def with_store(work):
    async def run_it():
        async with await JobStore.open(load_settings().store_url) as store:
            return await work(store)

    return asyncio.run(run_it())


def test_a_key_is_made_shown_once_and_works(data_dir, capsys):
    text = printed(capsys, "keys", "create", "poster team", "--concurrency", "2", "--rate", "30")
    assert re.fullmatch(r"[0-9a-f-]{36}:[0-9a-f]{48}\n", text)
    key = with_store(lambda store: store.find_key(text.strip()))
    assert (key.name, key.concurrency, key.rate) == ("poster team", 2, 30)
    listing = printed(capsys, "keys", "list")
    assert key.id in listing
    assert "poster team" in listing
    assert "2 at a time, 30 a minute" in listing
    secret = text.strip().split(":")[1]
    assert secret not in listing
    for file in data_dir.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()


def test_a_revoked_key_is_worthless_and_still_listed(data_dir, capsys):
    text = printed(capsys, "keys", "create", "a").strip()
    key_id = text.split(":")[0]
    assert printed(capsys, "keys", "revoke", "a") == f"Revoked {key_id} (a).\n"
    assert with_store(lambda store: store.find_key(text)) is None
    (listed,) = json.loads(printed(capsys, "keys", "list", "--json"))
    assert listed["id"] == key_id
    assert listed["revoked"] is not None
    assert "no valid key 'a'" in refused(capsys, "keys", "revoke", "a")


def test_a_name_that_two_keys_have_is_not_guessed(data_dir, capsys):
    first = printed(capsys, "keys", "create", "a").split(":")[0]
    printed(capsys, "keys", "create", "a")
    assert "2 keys are called 'a'" in refused(capsys, "keys", "revoke", "a")
    assert first in printed(capsys, "keys", "revoke", first)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["keys", "create", " "], "needs a name"),
        (["keys", "create"], "NAME"),
        (["keys", "create", "a", "--rate", "0"], "--rate"),
        (["keys", "create", "a", "--concurrency", "-1"], "--concurrency"),
        (["keys", "revoke", "nobody"], "glmimage serve"),
        (["keys", "list"], "glmimage serve"),
        (["usage"], "glmimage serve"),
        (["usage", "--since", "yesterday"], "--since is 'yesterday'"),
        (["usage", "--since", "7y"], "--since is '7y'"),
        (["usage", "--per", "minute"], "--per is 'minute'"),
        (["keys", "create", "a", "--data-dir", "/proc/none"], "/proc/none"),
    ],
)
def test_a_wrong_command_gets_one_sentence(data_dir, capsys, arguments, says):
    assert says in refused(capsys, *arguments)
    assert not data_dir.exists()


def test_usage_is_summed_up(data_dir, capsys):
    text = printed(capsys, "keys", "create", "team")

    async def paint(store):
        key = await store.find_key(text.strip())
        for _ in range(2):
            new = NewJob("fal-ai/glm-image", {"prompt": "a"}, api_key_id=key.id)
            await store.enqueue(new)
            (claim,) = await store.claim("worker", ("prior", "decode"), 1, 30)
            await store.finish(claim, {"images": []}, usage=Usage(0.92, 0.15, 1.0))

    with_store(paint)
    (row,) = json.loads(printed(capsys, "usage", "--by-key", "--per", "day", "--json"))
    assert (row["endpoint"], row["key"], row["requests"]) == ("fal-ai/glm-image", "team", 2)
    assert row["megapixels"] == pytest.approx(1.84)
    assert row["dollars"] == pytest.approx(0.276)
    table = printed(capsys, "usage", "--since", "1h")
    assert "fal-ai/glm-image" in table
    assert table.endswith(": $0.28\n")
    assert "Nothing was used" in printed(capsys, "usage", "--since", "2999-01-01")
