"""Where the swap file goes, and how it is opened; failures in words.

Owns: nothing; the descriptor is the caller's. No locks.
"""

from __future__ import annotations

import errno as errno_names
import os
import shutil

from coldmem.errors import SwapFileError
from coldmem.linux.file import in_memory, open_unnamed
from coldmem.units import format_bytes


def default_directory() -> str:
    """The directory that is used when none is given; see the head of swapfile.py."""
    usable = None
    for directory in (os.environ.get("TMPDIR"), "/var/tmp", "/tmp"):
        if directory and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
            if not in_memory(directory):
                return directory
            usable = usable or directory
    if usable is None:
        raise SwapFileError("no directory for the swap file: $TMPDIR, /var/tmp and /tmp cannot be"
                            " written; give directory=")
    return usable


def reason(error: OSError) -> str:
    """Why a file could not be made or opened in a directory, in words."""
    reasons = {
        errno_names.ENOENT: "there is no such directory",
        errno_names.ENOTDIR: "it is not a directory",
        errno_names.EACCES: "no permission to write there",
        errno_names.EPERM: "no permission to write there",
        errno_names.EROFS: "the file system is read-only",
        errno_names.ENOSPC: "the file system is full",
    }
    return reasons.get(error.errno or 0) or error.strerror or str(error)


def open_swap_file(directory: str, size_bytes: int) -> int:
    """Descriptor of the new file, with `size_bytes` of disk space reserved. Or SwapFileError."""
    try:
        fd = open_unnamed(directory)
    except OSError as error:
        raise SwapFileError(f"cannot make the swap file in {directory}: {reason(error)}",
                            errno=error.errno) from error
    try:
        if size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        os.close(fd)
        free_bytes = shutil.disk_usage(directory).free
        raise SwapFileError(
            f"cannot reserve {format_bytes(size_bytes)} for the swap file in {directory}: "
            f"{error.strerror} ({format_bytes(free_bytes)} are free)", errno=error.errno) from error
    return fd
