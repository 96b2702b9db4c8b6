"""The numerical reference: diffusers' GlmImagePipeline on the toy checkpoint, in float32."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference(tiny_dir):
    """Load the toy checkpoint with diffusers: the pipeline that ours must equal."""
    from diffusers import GlmImagePipeline

    pipeline = GlmImagePipeline.from_pretrained(tiny_dir, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    mend_source_tokens(pipeline)
    return pipeline


def mend_source_tokens(pipeline):
    """Let diffusers 0.42.1 tokenise source images with transformers 5.23.

    That transformers returns (channels, h, w) features an image, while that diffusers still
    concatenates them as (patches, channels); unmended, every image to image call fails.
    """
    encoder = pipeline.vision_language_encoder
    features_of = encoder.get_image_features

    def get_image_features(*args, **kwargs):
        output = features_of(*args, **kwargs)
        if "return_dict" not in kwargs:  # called by diffusers, not by generate()
            output.pooler_output = [feature.flatten(1).T for feature in output.pooler_output]
        return output

    def get_image_tokens(features, image_grid_thw):
        parts = features.split(image_grid_thw.prod(-1).tolist())
        sizes = image_grid_thw[:, 1:].tolist()
        maps = [part.T.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]
        return encoder.model.get_image_tokens(maps)

    encoder.get_image_features = get_image_features
    encoder.get_image_tokens = get_image_tokens
