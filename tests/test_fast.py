"""Fast switches by name; asked for where they cannot work, they change nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage import Pipeline
from glmimage.errors import InvalidSettings
from glmimage.fast import parse_fast
from glmimage.stages import Stages, compile_layers


def test_switches_are_read():
    assert parse_fast("") == frozenset()
    assert parse_fast(" graphs, compile,graphs") == {"compile", "graphs"}
    with pytest.raises(InvalidSettings, match="no fast switch 'turbo'"):
        parse_fast("compile,turbo")


def test_graphs_are_for_cuda_alone(tiny_dir):
    stages = Stages.load(str(tiny_dir), "cpu", "float32", "staged", fast="graphs")
    assert not stages.prior().graphs


def test_layers_are_compiled_a_few_times_whatever_is_painted(tiny_dir):
    """The same pictures, and no function more with each other text, size or reference."""
    reference = Image.linear_gradient("L").convert("RGB").resize((512, 512))
    asked = [
        {"prompt": f"A sign that says '{text}'", "width": width, "source_images": references}
        for text, width, references in (
            ("AB", 512, ()),
            ("ABCDE", 512, ()),
            ("A B C D E F", 768, ()),
            ("AB", 512, (reference,)),
            ("ABC", 512, (reference,) * 2),
            ("ABCD", 768, (reference,)),
        )
    ]
    pipe = Pipeline.load(str(tiny_dir), device="cpu", dtype="float32")

    def paint(arguments):
        result = pipe.generate(**arguments, height=512, num_inference_steps=1, seed=1)
        return np.asarray(result.images[0]).astype(int)

    plain, functions = [paint(arguments) for arguments in asked], []

    def count(graph, inputs):
        functions.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compile_layers(pipe.stages.decode().dit, backend=count)
    known = []
    for arguments, expected in zip(asked, plain, strict=True):
        assert abs(paint(arguments) - expected).max() <= 1
        known.append(len(functions))
    # with text and without; what reads references and what writes them is apart
    assert known[0] <= 2
    assert known[1] == known[2] <= 3
    assert known[4] == known[5] <= 6


def test_a_cpu_guesses_by_itself_whatever_is_packed(tiny_dir):
    def prior(**options):
        return Stages.load(str(tiny_dir), "cpu", memory="staged", **options).prior()

    assert prior(dtype="float32").packed is not None
    assert not prior(dtype="float32", fast="guesses").guesses  # packed weights do
    assert prior(dtype="bfloat16").guesses
    layered = Stages.load(str(tiny_dir), "cpu", "float32", "layered").prior()
    assert layered.packed is None
    assert layered.guesses
