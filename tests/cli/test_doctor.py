"""`glmimage doctor` says what would run and what is wrong, and downloads nothing."""

import asyncio
import json
import shutil
import socket
import sys

import asyncpg
import pytest
import torch
from typer.testing import CliRunner

from glmimage.cli import app
from glmimage.jobs import JobStore
from glmimage.memory import GIB
from glmimage.server.serving import Serving

from ..faults.bucket import Bucket


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("GLMIMAGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GLMIMAGE_CACHE_DIR", str(tmp_path / "cache"))
    for port in ("GLMIMAGE_HTTP_PORT", "GLMIMAGE_HTTPS_PORT"):
        monkeypatch.setenv(port, "0")
    # without credentials of its own a machine is asked for some, here one that is not there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_download)


def _no_download(*arguments, local_files_only=False, **options):
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert local_files_only, "doctor must not download"
    raise LocalEntryNotFoundError("nothing is here")


def doctor(*arguments):
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.output


def report(*arguments):
    code, text = doctor("--json", *arguments)
    document = json.loads(text)
    assert code == bool(document["problems"])
    return document, {model["model"]: model for model in document["models"]}


def test_a_machine_in_order(tiny_dir, tmp_path):
    document, models = report("--model", str(tiny_dir))
    assert document["problems"] == []
    assert document["machine"]["dtype"] in ("float32", "bfloat16")
    toy, real = models[str(tiny_dir)], models["zai-org/GLM-Image"]
    assert toy["files"] == "complete"
    assert toy["plan"]["memory"] == "resident"
    assert real["files"].startswith("not downloaded")
    assert real["download_to"] == str(tmp_path / "cache")
    code, page = doctor("--model", str(tiny_dir))
    assert code == 0
    assert "would run resident" in page
    assert page.rstrip().endswith("Nothing is wrong.")


def test_a_plan_that_loading_would_refuse_is_refused():
    _, models = report("--memory", "layered", "--lossy", "weights=int8")
    for plan in (models[name]["plan"] for name in ("nano", "zai-org/GLM-Image")):
        assert "memory='layered' and lossy='weights=int8' exclude each other" in plan["refused"]


@pytest.mark.parametrize(
    ("gib", "lossy", "mode"),
    [
        (79.5, "", "resident"),
        (47.5, "", "resident"),
        (23.6, "", "staged"),
        (31.5, "weights=int4", "resident"),
        (15.6, "", "layered"),
        (15.6, "weights=int8", "staged"),
    ],
)
def test_what_a_gpu_of_that_size_would_do(monkeypatch, gib, lossy, mode):
    free = int(gib * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda *_: type("P", (), {"total_memory": free})
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    document, models = report(*["--lossy", lossy] * bool(lossy))
    assert document["machine"]["gpus"][0]["name"] == "A GPU"
    plan = models["zai-org/GLM-Image"]["plan"]
    assert (plan["memory"], plan["device"]) == (mode, "cuda")
    assert f"{gib:.1f} GiB are free" in plan["why"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GLMIMAGE_MEMORY", "huge", "GLMIMAGE_MEMORY is 'huge'"),
        ("GLMIMAGE_MEMROY", "staged", "There is no setting GLMIMAGE_MEMROY"),
        ("GLMIMAGE_LOSSY", "weights=int2", "GLMIMAGE_LOSSY"),
        ("GLMIMAGE_DEVICE", "cuda:7", "no cuda device"),
        ("GLMIMAGE_MODEL", "/no/such/folder", "no model or folder '/no/such/folder'"),
        ("GLMIMAGE_DATA_DIR", "/proc/glmimage", "/proc/glmimage cannot be written"),
        ("GLMIMAGE_FILES_URL", "/proc/files", "/proc/files cannot be written"),
        ("GLMIMAGE_FILES_URL", "s3://pictures/p", "Set AWS_ACCESS_KEY_ID and"),
        ("GLMIMAGE_FILES_URL", "ftp://x", "GLMIMAGE_FILES_URL: 'ftp://x' is no place for files"),
        ("GLMIMAGE_TERMS_FILE", "/no/such", "GLMIMAGE_TERMS_FILE: The terms file '/no/such'"),
        ("GLMIMAGE_EXPANSION_URL", "http://x/v1", "GLMIMAGE_EXPANSION_URL is set, but no model"),
        ("GLMIMAGE_MODERATION_URL", "x/v1", "GLMIMAGE_MODERATION_URL: 'x/v1' is no address"),
        ("GLMIMAGE_TLS_CERT", "/no/such.pem", "GLMIMAGE_TLS_CERT is '/no/such.pem'"),
        ("GLMIMAGE_TLS_NAMES", "a..b", "see GLMIMAGE_TLS_NAMES"),
        ("GLMIMAGE_DATABASE_URL", "nonsense", "GLMIMAGE_DATABASE_URL: The database address"),
        ("GLMIMAGE_DATABASE_URL", "postgresql://a:b@127.0.0.1:9/x", "and the address right?"),
        ("GLMIMAGE_DATABASE_URL", "sqlite:////proc/x/a.db", "/proc/x cannot be written"),
        ("GLMIMAGE_HOST", "999.1.1.1", "GLMIMAGE_HOST is '999.1.1.1'; there is no such address"),
        ("GLMIMAGE_LORA_DIR", "/no/such", "GLMIMAGE_LORA_DIR is '/no/such'; there is no such"),
        ("GLMIMAGE_TRACES_URL", "file:///proc/x/a", "/proc/x cannot be written"),
    ],
)
def test_what_is_misconfigured_is_said(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    document, _ = report()
    assert any(words in problem for problem in document["problems"]), document["problems"]
    assert any("Problem: " in line and words in line for line in doctor()[1].splitlines())


def test_a_damaged_checkpoint_is_a_problem(tiny_dir, tmp_path):
    shutil.copytree(tiny_dir, tmp_path / "toy")
    (tmp_path / "toy/vae/config.json").unlink()
    document, models = report("--model", str(tmp_path / "toy"))
    assert "vae/config.json is missing" in document["problems"][0]
    assert "plan" not in models[str(tmp_path / "toy")]


def test_offline_without_the_model_is_a_problem(monkeypatch):
    monkeypatch.setenv("GLMIMAGE_OFFLINE", "1")
    document, _ = report("--model", "someone/else")
    assert "downloads are switched off" in document["problems"][0]


def test_traces_without_their_extra_are_a_problem(monkeypatch):
    monkeypatch.setenv("GLMIMAGE_TRACES_URL", "http://127.0.0.1:9")
    assert report()[0]["problems"] == []
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    (problem,) = report()[0]["problems"]
    assert "pip install 'glmimage[otel]'" in problem


def test_doors_that_would_be_open_are_a_problem(monkeypatch):
    monkeypatch.setenv("GLMIMAGE_AUTH", "0")
    monkeypatch.setenv("GLMIMAGE_HOST", "0.0.0.0")
    (problem,) = report()[0]["problems"]
    assert "Without keys the server may listen on loopback only" in problem


def test_a_port_is_a_strangers_or_our_own_servers(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("GLMIMAGE_HTTP_PORT", str(port))
        (problem,) = report()[0]["problems"]
        assert problem.startswith("GLMIMAGE_HOST, GLMIMAGE_HTTP_PORT: ")
        assert f"Port {port} on 127.0.0.1 is in use" in problem
        (tmp_path / "data").mkdir()
        Serving(1, f"127.0.0.1:{port}", "127.0.0.1:1", None, True).save(tmp_path / "data")
        assert report()[0]["problems"] == []


def test_what_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("glmimage.cli.doctor.ANSWER_S", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("GLMIMAGE_DATABASE_URL", f"postgresql://a:b@{address}/x")
        monkeypatch.setenv("GLMIMAGE_FILES_URL", f"s3://pictures/p?endpoint=http://{address}")
        database, bucket = report()[0]["problems"]
    assert database.startswith("GLMIMAGE_DATABASE_URL: The database does not answer within 0.5 s.")
    assert bucket.startswith("GLMIMAGE_FILES_URL: The bucket does not answer within 0.5 s.")


def test_nothing_is_made_that_serve_would_make(monkeypatch, tmp_path, postgres_address):
    async def num_tables():
        connection = await asyncpg.connect(postgres_address)
        found = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        number = await connection.fetchval(found)
        await connection.close()
        return number

    before = asyncio.run(num_tables())
    monkeypatch.setenv("GLMIMAGE_DATABASE_URL", postgres_address)
    monkeypatch.setenv("GLMIMAGE_TRACES_URL", f"file://{tmp_path}/traces/lines")
    with Bucket() as bucket:
        monkeypatch.setenv("GLMIMAGE_FILES_URL", bucket.url)
        assert report()[0]["problems"] == []
        monkeypatch.setenv("GLMIMAGE_FILES_URL", bucket.url.replace(bucket.name, "no-such-bucket"))
        (problem,) = report()[0]["problems"]
        assert problem.startswith("GLMIMAGE_FILES_URL: s3://no-such-bucket cannot be used")
    assert asyncio.run(num_tables()) == before
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_in_use_is_in_order(monkeypatch, postgres_address):
    async def make():
        connection = await asyncpg.connect(postgres_address)
        await connection.execute("CREATE DATABASE doctor")
        await connection.close()
        await (await JobStore.open(address)).close()

    address = postgres_address.replace("/postgres", "/doctor")
    asyncio.run(make())
    monkeypatch.setenv("GLMIMAGE_DATABASE_URL", address)
    assert report()[0]["problems"] == []
