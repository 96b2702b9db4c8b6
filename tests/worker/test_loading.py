"""What a worker says of the model it has loaded."""

import logging

import pytest

from glmimage.worker.process import _load


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("auto", "Memory mode resident: both stages ("),
        ("staged", "Memory mode staged: one stage at a time, as asked for; "),
    ],
)
def test_the_memory_mode_and_why_are_logged(make_settings, tmp_path, caplog, memory, said):
    settings = make_settings(tmp_path, memory=memory)
    with caplog.at_level(logging.INFO, logger="glmimage"):
        stages, _, info = _load(settings, ("decode",))
    stages.close()
    (line,) = [line for line in caplog.messages if line.startswith("Memory mode")]
    assert line.startswith(said)
    assert line.endswith(" GiB are free.")
    assert f"Memory mode {info['memory']}: " in line
