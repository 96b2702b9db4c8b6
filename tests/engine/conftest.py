"""A loaded toy model, some requests of every kind, and what each makes alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmimage.picture import make_pictures
from glmimage.pipeline import generate
from glmimage.stages import Stages
from glmimage.types import GenerationRequest, PictureReady


def draw(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def photo():
    """Give the function that draws a picture of some size."""
    return draw


@pytest.fixture(scope="session")
def stages(tiny_dir):
    torch.set_num_threads(1)
    return Stages.load(str(tiny_dir), "cpu", "float32")


@pytest.fixture(scope="session")
def requests():
    four = (draw(512, 512, 1), draw(640, 512, 2), draw(300, 200, 3), draw(512, 900, 4))
    square = {"width": 512, "height": 512}
    return {
        "text": GenerationRequest("A sign 'OPEN'", num_inference_steps=2, seed=1, **square),
        "edit": GenerationRequest("Paint", 512, 544, 3, 1.0, 2, 1, (draw(512, 640),)),
        "pair": GenerationRequest(
            "Two 'a' 'b'", 512, 512, 1, 3.0, 3, 2, (draw(512, 512),), temperature=0.5
        ),
        "mix": GenerationRequest("Mix", 512, 512, 1, 1.5, 4, 1, four, top_p=0.9),
    }


@pytest.fixture(scope="session")
def alone(stages, requests):
    """Make every request by itself: name -> its pictures' (prior token ids, pixels)."""
    made = {}
    for name, request in requests.items():
        pictures = make_pictures(name, request)
        images = [e.image for e in generate(stages, pictures) if isinstance(e, PictureReady)]
        made[name] = [
            (picture.prior.prior_token_ids, np.asarray(image, np.int16))
            for picture, image in zip(pictures, images, strict=True)
        ]
    return made
