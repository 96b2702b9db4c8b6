"""The CPU's own attention and GELU layer agree with PyTorch's, and step in only where they help."""

import pytest
import torch
import torch.nn.functional as F

from glmimage.model import cpu
from glmimage.model.cpu import attend, linear_gelu


def heads(seed, length, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, length, 64, generator=generator).to(dtype)


@pytest.fixture
def always(monkeypatch):
    """Take the products wherever they are possible, whatever processor runs the tests."""
    monkeypatch.setattr(cpu, "_bfloat16_units", lambda: True)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("rows", "num_keys"), [(256, 256), (700, 700), (300, 1000), (1, 600)])
def test_attention_in_bfloat16(rows, num_keys):
    query = heads(0, rows, torch.bfloat16)
    keys, values = heads(1, num_keys, torch.bfloat16), heads(2, num_keys, torch.bfloat16)
    ours = attend(query, keys, values, None)
    exact = F.scaled_dot_product_attention(query.double(), keys.double(), values.double())
    assert ours.shape == exact.shape
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 0.01 * exact.norm()


@pytest.mark.usefixtures("always")
def test_float32_masks_and_short_rows_take_the_kernel_of_pytorch():
    mask = torch.ones(2, 1, 1, 300, dtype=torch.bool)
    mask[1, ..., 200:] = False
    for one, seen in [
        (heads(0, 300), None),
        (heads(0, 300, torch.bfloat16), mask),
        (heads(0, 100, torch.bfloat16), None),
    ]:
        expected = F.scaled_dot_product_attention(one, one, one, attn_mask=seen)
        assert torch.equal(attend(one, one, one, seen), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_with_gelu(dtype):
    generator = torch.Generator().manual_seed(3)
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((1, 500, 96), (128, 96), (128,))
    )
    x, weight, bias = x.to(dtype), weight.to(dtype) / 10, bias.to(dtype)
    with torch.no_grad():
        ours = linear_gelu(x, weight, bias)
    expected = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    assert ours.dtype == dtype
    assert (ours - expected).abs().max() < (0.02 if dtype == torch.bfloat16 else 1e-5)


def test_gradients_pass_through_the_layer():
    x = torch.randn(300, 8, dtype=torch.bfloat16, requires_grad=True)
    linear_gelu(x, torch.ones(4, 8).bfloat16(), torch.zeros(4).bfloat16()).sum().backward()
    assert x.grad.abs().sum() > 0
