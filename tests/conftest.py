"""What several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# tests of downloads talk to a hub of their own, and say themselves when they are offline
os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """Write the toy checkpoint once; tests that break it copy it first."""
    from glmimage.loading.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def postgres_address():
    """Start a server for the whole run; its databases are made and dropped by the tests."""
    server = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "postgres_server.py", "--no-fsync"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = server.stdout.readline().strip()
    if not address:
        error = server.communicate()[1].strip()
        assert server.returncode == 3, error
        pytest.skip(error)
    yield address
    server.communicate("")
    assert server.returncode == 0
