"""Generated and uploaded files: a local folder, or an S3 bucket, behind one protocol."""

from .errors import FileMissing, FilesError, StorageFull, StorageUnavailable, TooManyBytes
from .store import FileInfo, FileStore, SigningStore, open_file_store

__all__ = [
    "FileInfo",
    "FileMissing",
    "FileStore",
    "FilesError",
    "SigningStore",
    "StorageFull",
    "StorageUnavailable",
    "TooManyBytes",
    "open_file_store",
]
