"""The CPU's own attention and GELU layer agree with PyTorch's, and step in only where they help."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glmimage.model import cpu
from glmimage.model.cpu import SLOW_ROWS, attend, linear, linear_gelu, linear_parts, mlp
from glmimage.thread_choice import cpu_threads


def heads(seed, length, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, length, 64, generator=generator).to(dtype)


@pytest.fixture
def always(monkeypatch):
    """Take the products wherever they are possible, whatever processor runs the tests."""
    monkeypatch.setattr(cpu, "_products_are_faster", lambda x: x.dtype == torch.bfloat16)


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


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(96, 128)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(128, 96, generator=generator) / 10)
        layer.bias.copy_(torch.randn(128, generator=generator))
    return layer


@pytest.fixture
def onednn(monkeypatch):
    """Take oneDNN's products wherever there are any, whatever processor runs the tests."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("no oneDNN in this PyTorch")
    monkeypatch.setattr(cpu, "_has_onednn", lambda dtype: True)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_with_and_without_gelu(layer, dtype):
    x = torch.randn(1, 500, 96, generator=torch.Generator().manual_seed(4)).to(dtype)
    layer.to(dtype)
    plain = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    curved = F.gelu(plain, approximate="tanh")
    with torch.inference_mode():
        for ours, expected in ((linear(x, layer), plain), (linear_gelu(x, layer), curved)):
            assert ours.dtype == dtype
            assert (ours - expected).abs().max() < (0.03 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_in_parts(layer, dtype, has_bias):
    x = torch.randn(1, 300, 96, generator=torch.Generator().manual_seed(5)).to(dtype)
    layer.to(dtype)
    if not has_bias:
        layer.bias = None
    with torch.inference_mode():
        for sizes in ((96, 32), (32, 96)):
            parts = linear_parts(x, layer, sizes)
            assert [part.shape[-1] for part in parts] == list(sizes)
            assert torch.allclose(torch.cat(parts, -1), layer(x), atol=0.03, rtol=0.02)
            assert dtype == torch.float32 or all(part.is_contiguous() for part in parts)
        assert torch.allclose(linear(x, layer), layer(x), atol=0.03, rtol=0.02)  # packed whole


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1040), (2, 500), (1, 100)])
def test_an_mlp_of_any_number_of_rows(layer, shape, threads):
    layer.to(torch.bfloat16)
    x = torch.randn(*shape, 96, generator=torch.Generator().manual_seed(6)).to(torch.bfloat16)
    back = nn.Linear(128, 96, dtype=torch.bfloat16)
    with torch.inference_mode(), cpu_threads(threads):
        expected = back(F.gelu(layer(x), approximate="tanh"))
        assert torch.allclose(mlp(x, layer, back), expected, atol=0.03, rtol=0.02)
    assert 1040 in SLOW_ROWS and 1000 in SLOW_ROWS and 100 not in SLOW_ROWS


@pytest.mark.usefixtures("onednn")
def test_a_packed_weight_is_made_anew_when_the_weight_changes(layer):
    x = torch.ones(1, 300, 96, dtype=torch.bfloat16)
    layer.to(torch.bfloat16)
    with torch.no_grad():
        before = linear(x, layer)
        assert layer in cpu._packed
        layer.weight.zero_()
        assert torch.equal(linear(x, layer), layer.bias.expand(1, 300, -1))
        zeros = layer.weight  # still there when another takes its place
        layer.weight = nn.Parameter(-zeros + 1)
        assert not torch.equal(linear(x, layer), before)
        assert torch.allclose(linear(x, layer), layer(x), atol=0.5, rtol=0.02)
        layer.weight = zeros
        assert torch.equal(linear(x, layer), layer.bias.expand(1, 300, -1))


@pytest.mark.usefixtures("onednn")
def test_a_large_weight_is_not_kept_twice(layer, monkeypatch):
    monkeypatch.setattr(cpu, "MAX_PACKED_BYTES", layer.weight.nbytes // 2 - 1)
    layer.to(torch.bfloat16)
    with torch.no_grad():
        linear(torch.ones(1, 300, 96, dtype=torch.bfloat16), layer)
    assert layer not in cpu._packed


@pytest.mark.usefixtures("onednn")
def test_adapters_are_not_passed_over(layer):
    layer.to(torch.bfloat16)
    x = torch.ones(1, 300, 96, dtype=torch.bfloat16)
    adapted = nn.Sequential(layer, nn.ReLU())
    with torch.no_grad():
        assert torch.equal(linear(x, adapted), adapted(x))
        assert torch.equal(linear_gelu(x, adapted), F.gelu(adapted(x), approximate="tanh"))
