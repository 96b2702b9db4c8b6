"""One started service for the folder; clients of every kind use it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from glmimage.redirect.connect_proxy import ConnectProxy
from glmimage.redirect.environment import child_environment

from ..running_service import Service, run_to_its_end

JAVASCRIPT = Path(__file__).parent / "javascript"


@pytest.fixture(scope="package")
def service(tmp_path_factory, tiny_dir):
    yield from run_to_its_end(Service(tmp_path_factory.mktemp("service"), tiny_dir))


@pytest.fixture
def start_service(tmp_path, tiny_dir):
    """Return a function that starts services of a test's own, all on one data folder."""
    started = []

    def start(*options, **process_options):
        started.append(Service(tmp_path, tiny_dir, *options, **process_options))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture(scope="module")
def fal_client(service):
    """Import the client anew under the environment of `exec`: it reads its hosts at import."""
    host, _, port = service.target.address.rpartition(":")
    before = dict(os.environ)
    known = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_client(name)}
    with ConnectProxy((host, int(port))) as proxy:
        os.environ.clear()
        os.environ.update(child_environment(before, service.target, proxy.port))
        try:
            import fal_client

            yield fal_client
        finally:
            os.environ.clear()
            os.environ.update(before)
            for name in [name for name in sys.modules if _is_client(name)]:
                del sys.modules[name]
            sys.modules.update(known)


def _is_client(name):
    return name == "fal_client" or name.startswith("fal_client.")


@pytest.fixture(scope="session")
def node_modules():
    """Return where the JavaScript clients are installed, or skip."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = JAVASCRIPT / "node_modules"
    if not (folder / "@fal-ai" / "client").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci in tests/clients/javascript")
    return folder
