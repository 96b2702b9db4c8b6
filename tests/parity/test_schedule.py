"""The noise levels: golden values, and diffusers' scheduler driven as its pipeline drives it."""

import json

import numpy as np
import pytest
import torch

from glmimage.errors import CheckpointInvalid
from glmimage.model.schedule import euler_step, make_schedule

STEPS, SIZES = (10, 30, 50), (512, 1024, 2048)

# (steps, side in px) -> (timestep, sigma) of the second, the middle and the last step, worked out
# by hand: sigma = mu / (mu + 1000 / timestep - 1), mu = .75 * side / 256 + .25
GOLDEN = {
    (10, 512): [(900, 0.9402985), (500, 0.6363636), (100, 0.1627907)],
    (10, 1024): [(900, 0.9669421), (500, 0.7647059), (100, 0.2653061)],
    (10, 2048): [(900, 0.9825327), (500, 0.8620690), (100, 0.4098361)],
    (30, 512): [(966, 0.9802842), (500, 0.6363636), (34, 0.0580205)],
    (30, 1024): [(966, 0.9892862), (500, 0.7647059), (34, 0.1026475)],
    (30, 2048): [(966, 0.9944000), (500, 0.8620690), (34, 0.1803140)],
    (50, 512): [(980, 0.9884726), (500, 0.6363636), (20, 0.0344828)],
    (50, 1024): [(980, 0.9937598), (500, 0.7647059), (20, 0.0622010)],
    (50, 2048): [(980, 0.9967453), (500, 0.8620690), (20, 0.1131222)],
}


@pytest.fixture(scope="module")
def config(tiny_dir):
    return json.loads((tiny_dir / "scheduler" / "scheduler_config.json").read_text())


@pytest.mark.parametrize(("steps", "side"), GOLDEN)
def test_golden_values(config, steps, side):
    schedule = make_schedule(steps, side, side, config)
    assert len(schedule.timesteps) == steps
    assert len(schedule.sigmas) == steps + 1
    assert schedule.sigmas[0] == 1
    assert schedule.sigmas[-1] == 0
    for index, (timestep, sigma) in zip(
        (1, steps // 2, steps - 1), GOLDEN[steps, side], strict=True
    ):
        assert schedule.timesteps[index] == timestep
        assert schedule.model_timesteps[index] == timestep - 1
        assert schedule.sigmas[index].item() == pytest.approx(sigma, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2, *STEPS, 100])
@pytest.mark.parametrize("size", [*((side, side) for side in SIZES), (544, 1920), (1152, 768)])
def test_schedule_equals_diffusers(config, reference, steps, size):
    from diffusers.pipelines.glm_image.pipeline_glm_image import calculate_shift

    timesteps = np.linspace(1000, 1.0, steps + 1)[:-1].astype(np.int64).astype(np.float32)
    mu = calculate_shift(size[0] * size[1] // 256, 256, 0.25, 0.75)
    reference.scheduler.set_timesteps(timesteps=timesteps, sigmas=timesteps / 1000, mu=mu)
    schedule = make_schedule(steps, *size, config)
    assert torch.equal(schedule.timesteps, reference.scheduler.timesteps)
    assert torch.equal(schedule.sigmas, reference.scheduler.sigmas)
    assert schedule.sigmas.dtype == schedule.timesteps.dtype == torch.float32


def test_larger_pictures_stay_noisy_longer(config):
    small, large = (make_schedule(30, side, side, config).sigmas for side in (512, 2048))
    assert (small[1:-1] < large[1:-1]).all()
    assert (small[:-1] > small[1:]).all()


def test_timesteps_are_not_shifted(config):
    """diffusers 0.40 told the model 1000 * sigma: magenta, grainy pictures."""
    small, large = (make_schedule(30, side, side, config) for side in (512, 2048))
    assert torch.equal(small.timesteps, large.timesteps)
    assert (small.timesteps - 1000 * small.sigmas[:-1]).abs().max() > 100


def test_euler_step_equals_diffusers(config, reference):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 8, 8, generator=generator)
    velocity = torch.randn(2, 16, 8, 8, generator=generator)
    schedule = make_schedule(10, 512, 512, config)
    reference.scheduler.set_timesteps(
        timesteps=schedule.timesteps.numpy(), sigmas=schedule.timesteps.numpy() / 1000, mu=1.75
    )
    expected = reference.scheduler.step(velocity, schedule.timesteps[0], latents).prev_sample
    stepped = euler_step(latents, velocity, *schedule.sigmas[:2])
    assert torch.equal(stepped, expected)


def test_euler_step_moves_each_row_by_its_own_levels(config):
    latents, velocity = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    stepped = euler_step(latents, velocity, torch.tensor([1.0, 0.5]), torch.tensor([0.75, 0.0]))
    assert stepped[:, 0, 0, 0].tolist() == [-0.25, -0.5]
    assert euler_step(latents.bfloat16(), velocity.bfloat16(), 1.0, 0.9).dtype == torch.float32


def test_base_values_are_read_from_the_checkpoint(config):
    other = make_schedule(10, 512, 512, config | {"max_shift": 1.0, "base_shift": 0.5})
    # mu = 2 * 1 + .5 at twice the base length
    assert other.sigmas[5].item() == pytest.approx(2.5 / 3.5)
    longer_base = make_schedule(10, 512, 512, config | {"base_image_seq_len": 1024})
    assert longer_base.sigmas[5].item() == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"time_shift_type": "exponential"}, "time_shift_type is 'exponential'"),
        ({"time_shift_type": None}, "time_shift_type is None"),
        ({"use_dynamic_shifting": False}, "use_dynamic_shifting is False"),
        ({"_class_name": "DDIMScheduler"}, "_class_name is 'DDIMScheduler'"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is on"),
        ({"shift_terminal": 0.1}, "shift_terminal is on"),
        ({"invert_sigmas": True}, "invert_sigmas is on"),
        ({"stochastic_sampling": True}, "stochastic_sampling is on"),
    ],
)
def test_another_schedule_is_refused(config, change, named):
    with pytest.raises(CheckpointInvalid) as caught:
        make_schedule(10, 512, 512, config | change)
    assert named in str(caught.value)
    assert "scheduler_config.json" in str(caught.value)
