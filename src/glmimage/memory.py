"""Decide where the components live: device, dtype, all at once or stage by stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from .errors import InvalidSettings, OutOfMemory

GIB = 2**30
MODES = ("auto", "resident", "staged", "layered")

# What the token loop likes to hold: eight 2048 px pictures, or one with four large references.
KV_TOKENS = 32768
# Below this the token loop could not even hold one 2048 px picture with its prompt.
MIN_KV_TOKENS = 8192
# What the allocator, the kernels' workspaces and the activations of a denoise step take.
RESERVE_BYTES = 3 * GIB // 2
# Decoder keys and values that have to fit beside the weights: a reference of 1024 px.
REFERENCE_PATCHES = 4096
MAX_PIXELS = 2048 * 2048
# Layers on the device besides those that stay: one at work, one on its way.
STREAMED_AT_ONCE = 2
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# A prior of fewer values is bound by its many short operations on a CPU, not by its weights.
CPU_SMALL_VALUES = 250_000_000
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Needs:
    """Count what a checkpoint takes at the chosen dtype, in bytes.

    prior, decode: weights of either stage, of which prior_layers and decode_layers layers of
    prior_layer and decode_layer bytes can be streamed. kv_token: keys and values of one token of
    the prior. reference_patch: decoder keys and values of one reference patch. vae_pixel: the
    VAE's decoder at its peak, for each pixel of a picture.
    """

    prior: int
    decode: int
    kv_token: int
    reference_patch: int
    vae_pixel: int
    prior_layer: int = 0
    prior_layers: int = 0
    decode_layer: int = 0
    decode_layers: int = 0

    def scaled(self, factor: float) -> Needs:
        """Return what the same weights take in another number format."""
        counts = ("prior_layers", "decode_layers")
        return Needs(
            **{
                field.name: getattr(self, field.name)
                if field.name in counts
                else int(getattr(self, field.name) * factor)
                for field in fields(self)
            }
        )

    def packed(self, share: float) -> Needs:
        """Return what is needed where layers take that share of their bytes; none is streamed."""
        written, painted = (
            int((1 - share) * layer * count)
            for layer, count in (
                (self.prior_layer, self.prior_layers),
                (self.decode_layer, self.decode_layers),
            )
        )
        return replace(
            self,
            prior=self.prior - written,
            decode=self.decode - painted,
            prior_layers=0,
            decode_layers=0,
        )


GLM_IMAGE_WIDTH = 4096
"""Columns of most weights of the published checkpoint."""
# The published checkpoint in bfloat16, counted from its config files: nothing has to be there.
GLM_IMAGE = Needs(
    prior=2 * (8_914_788_352 + 1_196_310_016),
    decode=2 * (6_926_882_880 + 220_000_000 + 84_000_000),
    kv_token=2 * 40 * 2 * 128 * 2,
    reference_patch=2 * 30 * 4096 * 2,
    vae_pixel=4 * 256 * 2,
    prior_layer=2 * (4096 * (4096 + 512 + 4096) + 3 * 4096 * 13696),
    prior_layers=40,
    decode_layer=2 * 12 * 4096 * 4096,
    decode_layers=30,
)


@dataclass(frozen=True)
class MemoryPlan:
    """Say what is loaded when.

    kv_tokens: budget of the token loop. vae_pixels: larger pictures go through the VAE in tiles.
    prior_layers, decode_layers: how many layers of either stage stay on the device, the others
    are streamed; None when all stay. why: one sentence.
    """

    resident: bool
    kv_tokens: int
    vae_pixels: int
    prior_layers: int | None = None
    decode_layers: int | None = None
    why: str = ""

    @property
    def mode(self) -> str:
        if self.prior_layers is not None or self.decode_layers is not None:
            return "layered"
        return "resident" if self.resident else "staged"

    def __str__(self) -> str:
        return f"{self.mode}: {self.why}"


def plan_memory(needs: Needs, free_bytes: int, mode: str = "auto") -> MemoryPlan:
    """Choose the mode that fits: resident when everything does; raise OutOfMemory when none does.

    The pictures are the same in all modes. Layers are streamed only where one stage alone does not
    fit. Tiling the VAE blends the seams of its tiles, so it is the last resort, and only for the
    pictures that need it.
    """
    if mode not in MODES:
        raise InvalidSettings(
            f"Unknown memory mode {mode!r}.", hint=f"Use one of {', '.join(MODES)}."
        )
    room = free_bytes - RESERVE_BYTES
    free = f"{max(0, free_bytes) / GIB:.1f} GiB are free"
    both = needs.prior + needs.decode
    spare = room - both - REFERENCE_PATCHES * needs.reference_patch
    comfortable = spare >= KV_TOKENS * needs.kv_token + MAX_PIXELS * needs.vae_pixel
    if mode == "resident" or (mode == "auto" and comfortable):
        kv_tokens = _kv_tokens(needs, spare)
        _check(both + MIN_KV_TOKENS * needs.kv_token, room, mode)
        vae_pixels = _vae_pixels(needs, spare - kv_tokens * needs.kv_token)
        why = f"both stages ({both / GIB:.1f} GiB of weights) fit at once; {free}"
        return MemoryPlan(True, kv_tokens, vae_pixels, why=why)
    least = max(needs.prior + MIN_KV_TOKENS * needs.kv_token, needs.decode)
    if mode == "layered" or (mode == "auto" and least > room and needs.prior_layers):
        return _layered(needs, room, free, keep=mode == "auto")
    _check(least, room, "staged")
    spare = room - needs.decode - REFERENCE_PATCHES * needs.reference_patch
    larger = max(needs.prior, needs.decode)
    why = f"one stage at a time (up to {larger / GIB:.1f} GiB of weights) fits, not both; {free}"
    if mode == "staged":
        why = f"one stage at a time, as asked for; {free}"
    return MemoryPlan(
        False, _kv_tokens(needs, room - needs.prior), _vae_pixels(needs, spare), why=why
    )


def _layered(needs: Needs, room: int, free: str, *, keep: bool) -> MemoryPlan:
    """Keep as many layers on the device as fit, or none; two at a time are being streamed."""
    prior_rest = needs.prior - needs.prior_layers * needs.prior_layer
    decode_rest = needs.decode - needs.decode_layers * needs.decode_layer
    prior_rest += STREAMED_AT_ONCE * needs.prior_layer + MIN_KV_TOKENS * needs.kv_token
    decode_rest += STREAMED_AT_ONCE * needs.decode_layer
    _check(max(prior_rest, decode_rest), room, "layered")
    fits_prior = min((room - prior_rest) // max(needs.prior_layer, 1), needs.prior_layers)
    fits_decode = min((room - decode_rest) // max(needs.decode_layer, 1), needs.decode_layers)
    prior_layers = fits_prior if keep else 0
    decode_layers = fits_decode if keep else 0
    spare = room - decode_rest - decode_layers * needs.decode_layer
    streamed = needs.prior_layers - prior_layers, needs.decode_layers - decode_layers
    why = (
        f"{streamed[0]} of {needs.prior_layers} layers of the prior and {streamed[1]} of "
        f"{needs.decode_layers} of the decoder are read anew at every pass, "
        + (f"because no stage fits as a whole; {free}" if keep else f"as asked for; {free}")
    )
    return MemoryPlan(
        False,
        MIN_KV_TOKENS,
        _vae_pixels(needs, spare),
        prior_layers if streamed[0] else None,
        decode_layers if streamed[1] else None,
        why,
    )


def _kv_tokens(needs: Needs, spare: int) -> int:
    return max(MIN_KV_TOKENS, min(KV_TOKENS, spare // max(needs.kv_token, 1)))


def _vae_pixels(needs: Needs, spare: int) -> int:
    return max(0, min(MAX_PIXELS, spare // max(needs.vae_pixel, 1)))


def _check(least: int, room: int, mode: str) -> None:
    if least > room:
        raise OutOfMemory(
            f"The model needs {(least + RESERVE_BYTES) / GIB:.1f} GiB at once ({mode}), "
            f"and {max(0, room + RESERVE_BYTES) / GIB:.1f} GiB are free.",
            hint="Free some memory, or use memory='layered', dtype='bfloat16', "
            "lossy='weights=int4' or a larger device.",
        )


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device asked for, or the best there is: CUDA, then MPS, then CPU."""
    if device is None or str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InvalidSettings(
            f"Unknown device {str(device)!r}.", hint="Use cuda, mps or cpu."
        ) from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(chosen.type, False):
        raise InvalidSettings(
            f"This machine has no {chosen.type} device that PyTorch can use.",
            hint="Leave the device out to have it chosen.",
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InvalidSettings(
            f"There is no {chosen}; {torch.cuda.device_count()} CUDA devices were found."
        )
    return chosen


@dataclass(frozen=True)
class Dtypes:
    """Name the number formats of the weights of either stage.

    products: of the prior's matrix products, where it is packed for a CPU (packed_prior.py).
    """

    prior: torch.dtype
    decode: torch.dtype
    products: torch.dtype = torch.float32


def choose_dtypes(
    device: torch.device, dtype: str | torch.dtype | None = None, prior_values: int = 0
) -> Dtypes:
    """Return the dtype asked for, or bfloat16 where the hardware computes in it, else float32.

    On a CPU a prior of few values stays in float32 all the same, but for its products: its steps
    are too small for bfloat16 to pay everywhere, and float32 gives the same tokens in any batch.
    Measured for nano on a Zen 4 core: prior 4.7 s in float32, 6.0 s in bfloat16 throughout; denoise
    3.9 s and 2.8 s; decode 1.2 s, 0.6 s.
    """
    if isinstance(dtype, torch.dtype):
        return Dtypes(dtype, dtype)
    if dtype not in (None, "auto"):
        if dtype not in DTYPES:
            raise InvalidSettings(
                f"Unknown dtype {dtype!r}.", hint=f"Use one of {', '.join(DTYPES)}."
            )
        return Dtypes(DTYPES[dtype], DTYPES[dtype])
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        fast = torch.backends.mps.is_macos_or_newer(14, 0)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not fast:
        return Dtypes(torch.float32, torch.float32)
    small = device.type == "cpu" and prior_values < CPU_SMALL_VALUES
    prior = torch.float32 if small else torch.bfloat16
    return Dtypes(prior, torch.bfloat16, torch.bfloat16 if small else torch.float32)


def cpu_features() -> list[str]:
    """Name what decides how fast this processor multiplies, and in which format."""
    known = {
        "AVX2": "_is_avx2_supported",
        "AVX512": "_is_avx512_supported",
        "AVX512-VNNI": "_is_vnni_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    asks = {name: getattr(torch.cpu, ask, None) for name, ask in known.items()}
    return [name for name, ask in asks.items() if ask is not None and ask()]


def free_bytes(device: torch.device) -> int:
    """Return the bytes free on the device now; for the CPU, what a container may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        amounts.append(int(rows["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        amounts.append(int(text) - int(used.read_text()))
    return min(amounts)


def gpu_memory(device: torch.device) -> dict[str, int]:
    """Return bytes of a CUDA device: total, free, and what this process holds; else nothing."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "total": total,
        "free": free,
        "reserved": torch.cuda.memory_reserved(device),
        "allocated": torch.cuda.memory_allocated(device),
    }


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that an event is not told before it happened."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the devices' different words for having no memory left into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in NO_MEMORY):
            raise
        raise OutOfMemory(
            "The device ran out of memory.",
            hint="Ask for a smaller picture, fewer references or fewer pictures at once, "
            "or use memory='staged'.",
        ) from error
