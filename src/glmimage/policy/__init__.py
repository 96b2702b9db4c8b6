"""What is refused: prompts, pictures, addresses; and the optional rewriting of prompts."""

from .address import AddressGuard
from .endpoint import Endpoint
from .errors import (
    AddressRefused,
    ContentRefused,
    FetchFailed,
    FileTooLarge,
    ImageLoadFailed,
    ImageTooLarge,
    ImageTooSmall,
    NotConfigured,
    PolicyError,
    ServiceUnavailable,
    UnsupportedImageFormat,
)
from .expansion import Expansion, PromptExpander
from .fetch import Fetched, FetchLimits, fetch_public, post_public
from .picture_check import PictureChecker, Verdict, black_like
from .policy import Policy, open_policy
from .prompt_check import PromptChecker, Refusal
from .references import ReferenceInfo, check_reference

__all__ = [
    "AddressGuard",
    "AddressRefused",
    "ContentRefused",
    "Endpoint",
    "Expansion",
    "FetchFailed",
    "FetchLimits",
    "Fetched",
    "FileTooLarge",
    "ImageLoadFailed",
    "ImageTooLarge",
    "ImageTooSmall",
    "NotConfigured",
    "PictureChecker",
    "Policy",
    "PolicyError",
    "PromptChecker",
    "PromptExpander",
    "ReferenceInfo",
    "Refusal",
    "ServiceUnavailable",
    "UnsupportedImageFormat",
    "Verdict",
    "black_like",
    "check_reference",
    "fetch_public",
    "open_policy",
    "post_public",
]
