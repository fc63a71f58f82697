"""The folder of a persistent log: who may use it, what format it has, what its files are called.

Owns: a `Folder` owns the descriptor of the folder's lock file, and with it the lock, until `close`.
Guarantees: one log at a time has the folder; a folder that is not empty and not a log's is refused
and left as it was. No locks of its own: the log calls it under its own.

=============  ==================================================================================
file           what
=============  ==================================================================================
LOCK           empty; locked (flock) while a log has the folder
FORMAT         format number and salt of the checksums, with a checksum; written once
INDEX          where the live records are, as of a clean close; taken away at the next opening
``*.segment``  records
=============  ==================================================================================
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress

from coldmem.cache.segment import Files, write_all
from coldmem.errors import CorruptDataError, SwapFileError, UsageError
from coldmem.linux.file import lock_file, open_unnamed, unlock_file
from coldmem.zswap.checksum import checksum_of
from coldmem.zswap.swapdir import reason

FORMAT = 1
_FORMAT_TEXT = re.compile(rb"coldmem cache, format (\d+)\nsalt ([0-9a-f]{32})\nsum ([0-9a-f]{16})\n")
_SEGMENT_NAME = re.compile(r"([0-9a-f]{6})\.segment")
_NEW = ".new"  # what is being written, until it is renamed
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class Folder:
    """A locked folder.

    Parameters
    ----------
    path : str
        Made, for its owner alone, when it is missing and its parent is not.
    files : Files
        To write with.

    Raises
    ------
    UsageError
        Another log has it; it is not a log's; it is of another format.
    SwapFileError
        The system refused.
    CorruptDataError
        Its FORMAT file is damaged.
    """

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self._files = files
        self._lock_fd = -1
        try:
            make_folder(path)
            names = set(os.listdir(path))
            if "FORMAT" not in names and names - {"LOCK", "FORMAT" + _NEW}:
                raise UsageError(f"{path} is not the folder of a cache, and not empty: give path= a"
                                 " folder of its own")
            self._lock_fd = os.open(f"{path}/LOCK", _FLAGS | os.O_CREAT, 0o600)
            if not lock_file(self._lock_fd):
                raise UsageError(f"the cache in {path} is open already, here or in another process:"
                                 " close it first, or give path= another folder")
            self.salt = self._salt()
        except OSError as error:
            self.close()
            if isinstance(error, SwapFileError):
                raise
            raise SwapFileError(f"cannot use {path} for a cache: {reason(error)}",
                                errno=error.errno) from error
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        self.close()

    def _salt(self) -> bytes:
        """The salt in the FORMAT file, which is made when there is none."""
        try:
            text = self.read("FORMAT")
        except FileNotFoundError:
            head = b"coldmem cache, format %d\nsalt %s\n" % (FORMAT, os.urandom(16).hex().encode())
            text = head + b"sum %016x\n" % checksum_of(head)
            self.write("FORMAT", text)
        match = _FORMAT_TEXT.fullmatch(text)
        if match is None or checksum_of(text[:match.start(3) - 4]) != int(match[3], 16):
            raise CorruptDataError(f"{self.path}/FORMAT is damaged, so that nothing in the cache can"
                                   " be trusted: remove the folder")
        if int(match[1]) != FORMAT:
            raise UsageError(f"the cache in {self.path} has format {int(match[1])}, this coldmem"
                             f" reads format {FORMAT}: use the coldmem that wrote it, or remove it")
        return bytes.fromhex(match[2].decode())

    # -- files -------------------------------------------------------------------------------------
    def segment_path(self, number: int) -> str:
        """The path of segment `number`."""
        return f"{self.path}/{number:06x}.segment"

    def segments(self) -> list[int]:
        """Numbers of all segments, rising. Or OSError."""
        matches = map(_SEGMENT_NAME.fullmatch, os.listdir(self.path))
        return sorted(int(match[1], 16) for match in matches if match)

    def read(self, name: str) -> bytes:
        """All of the file `name`. Or OSError."""
        with open(f"{self.path}/{name}", "rb") as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Put `data` into file `name`, all or nothing, durably. Or OSError."""
        path = f"{self.path}/{name}"
        fd = os.open(path + _NEW, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(self._files, fd, [data], len(data), 0)
            self._files.fdatasync(fd)
            os.rename(path + _NEW, path)
        except BaseException:
            os.unlink(path + _NEW)
            raise
        finally:
            os.close(fd)
        self.sync()

    def remove(self, name: str) -> None:
        """Remove the file `name` if it is there. Or OSError."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/{name}")

    def sync(self) -> None:
        """What was made, renamed and removed so far is so after a power cut. Or OSError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._files.fdatasync(fd)
        finally:
            os.close(fd)

    def close(self, unlock: bool = False) -> None:
        """Let the folder go; with `unlock`, even where a child of fork still has the descriptor."""
        if self._lock_fd >= 0:
            if unlock:
                unlock_file(self._lock_fd)
            os.close(self._lock_fd)
            self._lock_fd = -1


def make_folder(path: str) -> None:
    """Make a folder, for its owner alone, unless it is there. Or SwapFileError, OSError."""
    if os.path.isdir(path):
        return
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    except FileNotFoundError as error:
        parent = os.path.dirname(path.rstrip("/")) or "."
        raise SwapFileError(f"cannot make the folder {path} for a cache: there is no {parent}; make that"
                            " first, or give another path", errno=error.errno) from None


def check_directory(path: str) -> None:
    """Make the folder if it is missing, and see that files can be made in it. Or SwapFileError."""
    try:
        make_folder(path)
        os.close(open_unnamed(path))
    except OSError as error:
        if isinstance(error, SwapFileError):
            raise
        raise SwapFileError(f"cannot use {path} for a cache: {reason(error)}",
                            errno=error.errno) from error


def open_segment_file(path: str, new: bool) -> int:
    """Descriptor of a segment's file. Or OSError."""
    return os.open(path, _FLAGS | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
