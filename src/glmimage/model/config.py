"""The architecture of each network, read from the `config.json` files of a checkpoint.

A key that is missing, unknown or of a wrong kind is refused: a network built from half-understood
settings loads its tensors and paints noise. Bookkeeping keys and absent features (null, false, 0,
empty) are passed over, as the reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointInvalid

Json = Mapping[str, Any]

PRIOR_FILE = "vision_language_encoder/config.json"
DIT_FILE = "transformer/config.json"

# Written by transformers beside the architecture; none of them changes what inference computes.
_BOOKKEEPING = frozenset(
    {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "return_dict"}
    | {"initializer_range", "attention_dropout", "use_cache", "max_position_embeddings"}
    # read by the loader: how the weights are packed, not what is computed with them
    | {"quantization_config"}
    | {"pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "id2label", "label2id"}
)
# In configs derived from the GLM-4V family; GLM-Image's own code never reads them.
_UNREAD_BY_VISION = frozenset({"out_hidden_size", "temporal_patch_size", "rms_norm_eps"})
_UNREAD_BY_DIT = frozenset({"sample_size", "pos_embed_max_size"})


@dataclass(frozen=True)
class PriorConfig:
    """Shape of the autoregressive text model; `logits` cover `vision_vocab_size` ids only."""

    vocab_size: int
    vision_vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    attention_bias: bool
    rope_theta: float
    rotary_dim: int
    mrope_section: tuple[int, ...]
    image_token_id: int
    image_start_token_id: int
    image_end_token_id: int

    @classmethod
    def from_dict(cls, data: Json, file: str = PRIOR_FILE) -> PriorConfig:
        """Read the whole `vision_language_encoder/config.json`; raise CheckpointInvalid."""
        top = _prior_sections(data, file)
        image_ids = {
            key: top.whole(key)
            for key in ("image_token_id", "image_start_token_id", "image_end_token_id")
        }
        text = top.section("text_config")
        text.expect("hidden_act", "silu")
        heads, hidden = text.whole("num_attention_heads"), text.whole("hidden_size")
        kv_heads = text.whole("num_key_value_heads", default=heads)
        head_dim = text.whole("head_dim", default=hidden // heads)
        rope = text.section("rope_parameters", "rope_scaling", default={})
        # older configs keep these two beside `rope_scaling` instead of inside it
        theta = text.number("rope_theta", default=10000.0)
        rotary_factor = text.number("partial_rotary_factor", default=1.0)
        rotary_factor = rope.number("partial_rotary_factor", default=rotary_factor)
        theta = rope.number("rope_theta", default=theta)
        rotary_dim = int(head_dim * rotary_factor)
        section = rope.wholes("mrope_section", default=(8, 12, 12))
        rope.expect("rope_type", "default", default="default")
        rope.expect("type", "default", default="default")
        rope.finish()
        if heads % kv_heads:
            raise text.invalid("num_key_value_heads", f"{kv_heads} does not divide {heads} heads")
        if sum(section) * 2 != rotary_dim:
            raise rope.invalid(
                "mrope_section",
                f"{list(section)} must sum to half of the {rotary_dim} rotated channels",
            )
        config = cls(
            vocab_size=text.whole("vocab_size"),
            vision_vocab_size=text.whole("vision_vocab_size"),
            hidden_size=hidden,
            intermediate_size=text.whole("intermediate_size"),
            num_layers=text.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=text.number("rms_norm_eps"),
            # absent in the published config: transformers defaults to true
            attention_bias=text.flag("attention_bias", default=True),
            rope_theta=theta,
            rotary_dim=rotary_dim,
            mrope_section=section,
            **image_ids,
        )
        text.finish()
        return config


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the encoder that looks at reference images, half size, in patches."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    in_channels: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    attention_bias: bool

    @property
    def position_grid(self) -> int:
        """Side of the square grid of learned position embeddings."""
        return self.image_size // self.patch_size

    @classmethod
    def from_dict(cls, data: Json, file: str = PRIOR_FILE) -> VisionConfig:
        """Read the whole `vision_language_encoder/config.json`; raise CheckpointInvalid."""
        vision = _prior_sections(data, file).section("vision_config")
        vision.expect("hidden_act", "gelu")
        # the tokens of a picture are in row order only when patches are not merged
        vision.expect("spatial_merge_size", 1, default=1)
        vision.skip(_UNREAD_BY_VISION)
        config = cls(
            num_layers=vision.whole("depth"),
            hidden_size=vision.whole("hidden_size"),
            num_heads=vision.whole("num_heads"),
            intermediate_size=vision.whole("intermediate_size"),
            in_channels=vision.whole("in_channels"),
            image_size=vision.whole("image_size"),
            patch_size=vision.whole("patch_size"),
            layer_norm_eps=vision.number("layer_norm_eps"),
            attention_bias=vision.flag("attention_bias"),
        )
        vision.finish()
        return config


@dataclass(frozen=True)
class VQConfig:
    """Shape of the quantiser that turns encoder features into prior tokens."""

    embed_dim: int
    num_embeddings: int
    latent_channels: int

    @classmethod
    def from_dict(cls, data: Json, file: str = PRIOR_FILE) -> VQConfig:
        """Read the whole `vision_language_encoder/config.json`; raise CheckpointInvalid."""
        vq = _prior_sections(data, file).section("vq_config")
        vq.skip({"in_channels"})
        config = cls(
            embed_dim=vq.whole("embed_dim"),
            num_embeddings=vq.whole("num_embeddings"),
            latent_channels=vq.whole("latent_channels"),
        )
        vq.finish()
        return config


@dataclass(frozen=True)
class DitConfig:
    """Shape of the diffusion transformer, under the names of its own `config.json`."""

    patch_size: int
    in_channels: int
    out_channels: int
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int
    text_embed_dim: int
    time_embed_dim: int
    condition_dim: int
    prior_vq_quantizer_codebook_size: int

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, data: Json, file: str = DIT_FILE) -> DitConfig:
        """Read `transformer/config.json`; raise CheckpointInvalid."""
        reader = _Reader(data, file)
        reader.expect("_class_name", "GlmImageTransformer2DModel")
        reader.skip(_UNREAD_BY_DIT)
        config = cls(**{name: reader.whole(name) for name in cls.__dataclass_fields__})
        reader.finish()
        return config


def _prior_sections(data: Json, file: str) -> _Reader:
    top = _Reader(data, file)
    top.expect("model_type", "glm_image")
    top.expect("tie_word_embeddings", False, default=False)
    names = {"text_config", "vision_config", "vq_config"}
    names |= {"image_token_id", "image_start_token_id", "image_end_token_id"}
    # each class reads its own part of the file; together they are all that may be there
    top.skip(names)
    top.finish()
    return _Reader({key: data[key] for key in names if key in data}, file)


class _Reader:
    """Take typed values out of one JSON object, and know what was not taken."""

    def __init__(self, data: Any, file: str, path: str = "") -> None:
        self.file, self.path = file, path
        if not isinstance(data, Mapping):
            raise self.invalid("", f"expected an object, found {_short(data)}")
        self.data, self.unread = data, set(data)

    def invalid(self, key: str, problem: str) -> CheckpointInvalid:
        where = f"{self.path}{key}".rstrip(".") or "the file"
        return CheckpointInvalid(
            f"{self.file}: {where}: {problem}.",
            hint="The folder must hold a GLM-Image checkpoint in the diffusers layout.",
        )

    def take(self, key: str, default: Any = None) -> Any:
        self.unread.discard(key)
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.invalid(key, "the key is missing")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.invalid(key, f"expected a whole number, found {_short(value)}")
        # an id may be 0, a dimension may not
        if value == 0 and not key.endswith("_id"):
            raise self.invalid(key, "must not be 0")
        return value

    def wholes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)) or not all(type(v) is int and v > 0 for v in value):
            raise self.invalid(key, f"expected a list of whole numbers, found {_short(value)}")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.take(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise self.invalid(key, f"expected a positive number, found {_short(value)}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.invalid(key, f"expected true or false, found {_short(value)}")
        return value

    def expect(self, key: str, only: Any, default: Any = None) -> None:
        value = self.take(key, default)
        if value != only:
            raise self.invalid(key, f"{_short(value)} is not supported, only {only!r}")

    def section(self, *keys: str, default: Json | None = None) -> _Reader:
        found = [key for key in keys if self.data.get(key) is not None]
        self.unread.difference_update(keys)
        key = found[0] if found else keys[0]
        return _Reader(self.take(key, default), self.file, f"{self.path}{key}.")

    def skip(self, keys: Iterable[str]) -> None:
        self.unread.difference_update(keys)

    def finish(self) -> None:
        """Refuse what nobody asked for, unless it is bookkeeping or switched off."""
        for key in sorted(self.unread - _BOOKKEEPING):
            if self.data[key] and not key.startswith("_"):
                raise self.invalid(key, "the key is unknown to this version of glmimage")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
