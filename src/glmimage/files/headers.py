"""What those who read a file are told to do with it."""

import re
from urllib.parse import quote

# shown in the browser; anything else is offered as a download, for a page could act as the server
_SHOWN = re.compile(r"(image/(?!svg)|audio/|video/)[\w.+-]+|text/plain(;.*)?")


def is_shown(content_type: str) -> bool:
    """Say whether a browser may show files of this type by itself."""
    return _SHOWN.fullmatch(content_type) is not None


def disposition(content_type: str, name: str) -> str:
    """Return the Content-Disposition of a file."""
    kind = "inline" if is_shown(content_type) else "attachment"
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}"
