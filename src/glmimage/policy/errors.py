"""Every refusal and failure of the guard, as one tree; `code` is the type fal's clients know.

PolicyError
├── ContentRefused            content_policy_violation; `kind` says which kind of content
├── FetchFailed               file_download_error
│   └── AddressRefused        the address is none the server may connect to
├── FileTooLarge              file_too_large; context max_size, bytes
├── ImageLoadFailed           image_load_error
├── ImageTooSmall             image_too_small; context min_width, min_height, px
├── ImageTooLarge             image_too_large; context max_width, max_height, px
├── UnsupportedImageFormat    unsupported_image_format; context supported_formats
└── ServiceUnavailable        downstream_service_unavailable; the moderation or the chat endpoint
    └── NotConfigured         feature_not_supported; there is no such endpoint
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import GlmImageError


class PolicyError(GlmImageError):
    """Say what is wrong, what to do about it, and the numbers a program wants in `context`."""

    code = "policy_error"

    def __init__(
        self, message: str, *, hint: str = "", context: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.context = dict(context or {})


class ContentRefused(PolicyError):
    code = "content_policy_violation"

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class FetchFailed(PolicyError):
    code = "file_download_error"


class AddressRefused(FetchFailed):
    """Refuse an address before one byte is sent to it."""


class FileTooLarge(PolicyError):
    code = "file_too_large"


class ImageLoadFailed(PolicyError):
    code = "image_load_error"


class ImageTooSmall(PolicyError):
    code = "image_too_small"


class ImageTooLarge(PolicyError):
    code = "image_too_large"


class UnsupportedImageFormat(PolicyError):
    code = "unsupported_image_format"


class ServiceUnavailable(PolicyError):
    code = "downstream_service_unavailable"


class NotConfigured(ServiceUnavailable):
    """Refuse what this server is not set up for; trying again does not help."""

    code = "feature_not_supported"
