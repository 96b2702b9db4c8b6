"""Fine-tune the prior and the decoder on pictures of one's own: low-rank adapters."""

from .lora import train_lora
from .options import LoraOptions

__all__ = ["LoraOptions", "train_lora"]
