"""Fast switches by name; asked for where they cannot work, they change nothing."""

import pytest

from glmimage.errors import InvalidSettings
from glmimage.fast import parse_fast
from glmimage.stages import Stages


def test_switches_are_read():
    assert parse_fast("") == frozenset()
    assert parse_fast(" graphs, compile,graphs") == {"compile", "graphs"}
    with pytest.raises(InvalidSettings, match="no fast switch 'turbo'"):
        parse_fast("compile,turbo")


def test_graphs_are_for_cuda_alone(tiny_dir):
    stages = Stages.load(str(tiny_dir), "cpu", "float32", "staged", fast="graphs")
    assert not stages.prior().graphs
