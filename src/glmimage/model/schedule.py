"""The noise levels of the denoising loop: flow matching, shifted by the size of the picture.

The sigmas are shifted, the timesteps the model is told are not: it was trained that way.
Source: diffusers' FlowMatchEulerDiscreteScheduler as GlmImagePipeline drives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointInvalid

SCHEDULER_FILE = "scheduler/scheduler_config.json"
PIXELS_PER_TOKEN = 16 * 16

_EXPECTED = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
}
_MUST_BE_OFF = (
    "shift_terminal",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True)
class Schedule:
    """N timesteps and N + 1 sigmas, float32; the last sigma is 0."""

    timesteps: Tensor
    sigmas: Tensor

    @property
    def model_timesteps(self) -> Tensor:
        """What the DiT is told at each step: it counts from 0."""
        return self.timesteps - 1


def make_schedule(
    num_inference_steps: int, height: int, width: int, scheduler_config: Mapping[str, Any]
) -> Schedule:
    """Return the schedule for a picture of height x width pixels.

    Raises CheckpointInvalid for a scheduler that is not the one GLM-Image was made with.
    """
    check_scheduler(scheduler_config)
    num_train = int(scheduler_config.get("num_train_timesteps", 1000))
    timesteps = np.linspace(num_train, 1.0, num_inference_steps + 1)[:-1]
    timesteps = timesteps.astype(np.int64).astype(np.float32)
    tokens = height * width // PIXELS_PER_TOKEN
    growth = (tokens / scheduler_config.get("base_image_seq_len", 256)) ** 0.5
    mu = growth * scheduler_config.get("max_shift", 0.75) + scheduler_config.get("base_shift", 0.25)
    unshifted = timesteps / num_train
    sigmas = mu / (mu + (1 / unshifted - 1))
    return Schedule(
        timesteps=torch.from_numpy(timesteps),
        sigmas=torch.from_numpy(np.append(sigmas, 0).astype(np.float32)),
    )


def check_scheduler(scheduler_config: Mapping[str, Any], file: str = SCHEDULER_FILE) -> None:
    """Refuse any other shifting: its pictures would look plausible and be wrong."""
    wrong = [
        f"{key} is {scheduler_config.get(key)!r} instead of {value!r}"
        for key, value in _EXPECTED.items()
        if scheduler_config.get(key) != value
    ]
    wrong += [f"{key} is on" for key in _MUST_BE_OFF if scheduler_config.get(key)]
    if wrong:
        raise CheckpointInvalid(
            f"{file} asks for a schedule that GLM-Image does not use: {', '.join(wrong)}.",
            hint="Take the scheduler folder of the original checkpoint.",
        )


def euler_step(
    latents: Tensor, velocity: Tensor, sigma: Tensor | float, next_sigma: Tensor | float
) -> Tensor:
    """Move the latents from one noise level to the next, in float32.

    Either sigma is one number for the batch, or (B,) for rows at different steps.
    """
    distance = torch.as_tensor(next_sigma) - torch.as_tensor(sigma)
    distance = distance.to(latents.device, torch.float32).reshape(-1, 1, 1, 1)
    return latents.float() + distance * velocity.float()
