"""What several test files share."""

import os

import pytest

# tests of downloads talk to a hub of their own, and say themselves when they are offline
os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """Write the toy checkpoint once; tests that break it copy it first."""
    from glmimage.loading.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"), seed=0)
