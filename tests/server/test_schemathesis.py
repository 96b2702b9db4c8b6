"""Schemathesis over the OpenAPI document of every surface, with all its checks."""

import subprocess
import sys
from pathlib import Path

import pytest

APP = "fal-ai/glm-image"
EDIT = f"{APP}/image-to-image"
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def strict(tmp_path_factory, request):
    """Serve with validation at submit: with deferral, a bad input is rightly answered 200."""
    server_class = type(request.getfixturevalue("server"))
    folder = tmp_path_factory.mktemp("strict")
    with server_class(folder, defer_validation=False, no_worker_timeout_s=3600) as running:
        yield running


@pytest.mark.parametrize(
    ("surface", "endpoint"),
    [
        ("queue", EDIT),  # of either endpoint the other surface differs in its paths only
        ("run", APP),
        ("rest", APP),
        ("platform", APP),
    ],
)
def test_surface(strict, tmp_path, surface, endpoint):
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={CONFIG}",
            "run",
            f"{strict.url}/api/openapi/{surface}/openapi.json?endpoint_id={endpoint}",
            "--checks=all",
            "--max-examples=5",
            "--seed=1",
            "--request-timeout=60",  # machines may be busy
            "--no-color",
            f"--header=Authorization: Key {strict.key}",
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 generated" not in done.stdout
