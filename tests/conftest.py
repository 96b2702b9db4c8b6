"""What several test files share."""

import pytest


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """Write the toy checkpoint once; tests that break it copy it first."""
    from glmimage.model.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"), seed=0)
