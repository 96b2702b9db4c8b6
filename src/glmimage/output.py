"""Pictures on disk: checked before the work begins, complete or absent ever after."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from PIL import Image

from .errors import OutputError

Format = Literal["png", "jpeg"]
SUFFIXES: dict[str, Format] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
LOSSY_QUALITY = 95

_unfinished: set[Path] = set()


def remove_unfinished() -> None:
    """Delete every file and folder that is being written; safe in a signal handler."""
    for path in list(_unfinished):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        _unfinished.discard(path)


def choose_paths(
    wanted: Path | None, picture_format: Format | None, num_images: int, seed: int
) -> tuple[list[Path], Format]:
    """Name the files: `wanted`, or glmimage-SEED; with several, -1, -2 ... before the suffix.

    The suffix decides the format; `picture_format` adds one where there is none. Raise OutputError.
    """
    path = Path(f"glmimage-{seed}") if wanted is None else wanted
    if path.name in ("", "..") or path.is_dir():
        raise OutputError(f"{str(wanted)!r} is a folder.", hint="Add a file name.")
    known = SUFFIXES.get(path.suffix.lower())
    if known is None and path.suffix and wanted is not None and picture_format is None:
        raise OutputError(
            f"Unknown picture format {path.suffix!r} of {str(path)!r}.",
            hint=f"Use one of: {', '.join(SUFFIXES)}.",
        )
    if known is not None and picture_format not in (None, known):
        raise OutputError(f"{str(path)!r} is not a name for a {picture_format} file.")
    chosen = known or picture_format or "png"
    if known is None:
        path = path.with_name(f"{path.name}.{'jpg' if chosen == 'jpeg' else 'png'}")
    if num_images == 1:
        return [path], chosen
    numbers = range(1, num_images + 1)
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in numbers], chosen


class PictureFiles:
    """Write pictures under temporary names and give them their own when all are complete.

    A context: leaving it without `finish()` removes everything written. Creating it checks that
    every path can be written, so that no minute of work is spent on a picture without a place.
    """

    def __init__(self, paths: Sequence[Path], picture_format: Format, needed_bytes: int = 0):
        self._format = picture_format
        self._paths = list(paths)
        self._written: dict[int, Path] = {}
        for path in self._paths:
            _check_target(path)
        _check_folder(self._paths[0].parent, needed_bytes)

    def __enter__(self) -> PictureFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path in self._written.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
            _unfinished.discard(path)
        self._written.clear()

    def write(self, index: int, image: Image.Image) -> None:
        """Encode and store picture `index` under a temporary name; raise OutputError."""
        content = encode_picture(image, self._format)
        target = self._paths[index]
        try:
            temporary = self._written[index] = _temporary_name(target)
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot_write(target, error) from None

    def finish(self) -> list[Path]:
        """Rename all pictures to their own names and return these."""
        for index, temporary in sorted(self._written.items()):
            target = self._paths[index].resolve()  # a link keeps being a link
            try:
                os.replace(temporary, target)
            except OSError as error:
                raise _cannot_write(self._paths[index], error) from None
            _unfinished.discard(temporary)
        self._written.clear()
        _sync_folder(self._paths[0].parent)
        return self._paths


class NewFolder:
    """Fill a folder under a temporary name and give it its own when it is complete.

    `path` yields the temporary folder inside the context; it is renamed on a clean exit.
    """

    def __init__(self, target: Path):
        self._target = target
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise OutputError(
                f"{str(target)!r} already exists.", hint="Name a new or an empty folder."
            )
        _check_folder(target.absolute().parent, 0)

    def __enter__(self) -> Path:
        self._temporary = _temporary_name(self._target)
        try:
            self._temporary.mkdir()
        except OSError as error:
            raise _cannot_write(self._target, error) from None
        return self._temporary

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                os.replace(self._temporary, self._target)
            elif isinstance(error, OSError):
                raise _cannot_write(self._target, error) from None
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)
            _unfinished.discard(self._temporary)


def encode_picture(
    image: Image.Image, picture_format: Literal["png", "jpeg", "webp"], quality: int | None = None
) -> bytes:
    """Return the file's bytes: PNG, or JPEG at full colour resolution, for the sake of letters.

    quality: 0 to 100, of JPEG and WebP; by default 95. JPEG without PIL's `optimize`: it fails on
    pictures that do not compress.
    """
    buffer = io.BytesIO()
    quality = LOSSY_QUALITY if quality is None else quality
    if picture_format == "jpeg":
        image.save(buffer, "JPEG", quality=max(quality, 1), subsampling=0)
    elif picture_format == "webp":
        image.save(buffer, "WEBP", quality=quality)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_target(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_write(path, error) from None
    if stat.S_ISDIR(mode):
        raise OutputError(f"{str(path)!r} is a folder.", hint="Add a file name.")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{str(path)!r} is not an ordinary file.")
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OutputError(f"No permission to overwrite {str(path)!r}.")


def _check_folder(folder: Path, needed_bytes: int) -> None:
    if not folder.exists():
        raise OutputError(f"There is no folder {str(folder)!r}.", hint="Create it first.")
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file, not a folder.")
    try:
        # only a real file shows that one can be made: permissions, read-only disks, quotas
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if free < needed_bytes:
        raise OutputError(
            f"{free // 1024} KiB are free in {str(folder)!r}, "
            f"and the pictures may need {needed_bytes // 1024}.",
            hint="Make space, or choose another folder with -o.",
        )


def _temporary_name(target: Path) -> Path:
    """Return a new hidden name beside the target, known to `remove_unfinished` before it exists."""
    resolved = target.resolve()
    # 40 characters of the name are enough to recognise it and keep the whole below 255 bytes
    path = resolved.with_name(f".{resolved.name[:40]}.{secrets.token_hex(4)}.part")
    _unfinished.add(path)
    return path


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"No space left to write {str(path)!r}.", hint="Make space.")
    reason = (error.strerror or type(error).__name__).lower()
    return OutputError(f"Cannot write {str(path)!r}: {reason}.")
