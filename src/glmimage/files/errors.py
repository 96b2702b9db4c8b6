"""Failures of the file store, as one tree.

FilesError
├── FileMissing           there is no such file
├── TooManyBytes          more was sent than the caller of `put` allows
├── StorageFull           no space left
└── StorageUnavailable    the folder or bucket cannot be read or written now
"""

from ..errors import GlmImageError


class FilesError(GlmImageError):
    code = "files_error"


class FileMissing(FilesError):
    code = "file_missing"


class TooManyBytes(FilesError):
    code = "file_too_large"


class StorageFull(FilesError):
    code = "storage_full"


class StorageUnavailable(FilesError):
    code = "storage_unavailable"
