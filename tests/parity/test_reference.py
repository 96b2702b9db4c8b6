"""The toy checkpoint runs in the reference pipeline: every parity test rests on this."""

import numpy as np
import torch
from PIL import Image

SIZE = {"height": 512, "width": 512, "num_inference_steps": 2}


def picture(width, height, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_reference_paints_from_text_and_from_images(reference):
    from_text = paint(reference, "A sign that says 'OPEN'")
    sources = [picture(512, 640, 1), picture(768, 512, 2)]
    from_images = paint(reference, "Make it 'blue'", image=sources)
    other_source = paint(reference, "Make it 'blue'", image=[sources[0], picture(768, 512, 3)])
    assert from_text.shape == from_images.shape == (512, 512, 3)
    assert from_text.std() > 20
    assert from_images.std() > 20
    assert np.abs(from_images - other_source).mean() > 1


def paint(reference, prompt, **arguments):
    generator = torch.Generator().manual_seed(0)
    images = reference(prompt, generator=generator, **SIZE, **arguments).images
    return np.asarray(images[0]).astype(float)
