"""The process behind `glmimage`: signals first, everything else after."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType


def main() -> None:
    """Run the command line and exit with its code.

    Codes: 0 done, 1 an internal failure, 2 the request, a setting, the model or the output is
    wrong, 128 + N ended by signal N.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and shells' background jobs
            signal.signal(number, _stop)
    from .cli import run

    sys.exit(run(sys.argv[1:]))


def _stop(number: int, frame: FrameType | None) -> None:
    # An exception raised here could land inside an import or a callback that swallows it, and
    # the command would go on. Nothing but the files being written needs an orderly end.
    output = sys.modules.get(f"{__package__}.output")
    if output is not None:
        output.remove_unfinished()
    show_cursor = b"\x1b[?25h\r\n" if os.isatty(2) else b""  # a progress bar may have hidden it
    with suppress(OSError):
        os.write(2, show_cursor + b"Stopped.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
