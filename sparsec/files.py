"""Files whose content and place others may have chosen: what is read of them, how much memory that may take, and how
files are written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import IO

from sparsec.errors import UsageError

Name = str | os.PathLike[str]
Use = Callable[[Path], str]
"""What a file that is there is used for, empty where it may be replaced."""

_USE: ContextVar[Use | None] = ContextVar("use", default=None)

FREE_BYTES, LARGEST_RATIO = 256 << 20, 64
WRITTEN_AT_ONCE = 16 << 20
"""Bytes: Linux keeps what is written by several huge pages in such, which are faster to read for who maps the file."""


def budget(size: int) -> int:
    """Bytes of memory that reading a file of that size may take, whatever its kind."""
    return FREE_BYTES + LARGEST_RATIO * size


def read_regular(path: Name, most: int | None = None) -> bytes:
    """What a regular file holds, or its first `most` bytes.

    Raises:
        OSError: it cannot be read, or is a folder, a device, a pipe or a socket.

    """
    with open_regular(path) as file:
        return file.read() if most is None else file.read(most)


def open_regular(path: Name) -> BufferedReader:
    """A regular file to read.

    Raises:
        OSError: as `read_regular`.

    """
    _check_name(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is opened without a writer
    try:
        check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_name(path: Name) -> None:
    """Raises OSError for a path with a zero byte, which the system's functions refuse by a ValueError."""
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "its name holds a zero byte", os.fspath(path))


def check_regular(path: Name, found: os.stat_result | None = None) -> os.stat_result:
    """Where a file is a regular one, what the system says of it.

    Raises:
        OSError: it is none, or there is none.

    """
    if found is None:
        _check_name(path)
        found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return found


def check_members(archive: zipfile.ZipFile, most: int) -> None:
    """Check that the members of a zip file are stored or deflated, and take no more memory than that all together.

    Raises:
        ValueError: they are not, or do.

    """
    members = archive.infolist()
    if any(each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for each in members):
        raise ValueError("a member is neither stored nor deflated")
    if sum(each.file_size for each in members) > most:
        raise ValueError(f"its members take over {most} bytes")


@contextmanager
def keeping(use: Use) -> Iterator[None]:
    """Within, files that are in use are not replaced: `write` and `write_by` raise UsageError."""
    token = _USE.set(use)
    try:
        yield
    finally:
        _USE.reset(token)


def check_replaceable(path: Name, use: Use | None = None) -> None:
    """Check that what a file holds may be lost.

    Raises:
        UsageError: it is in use, by `use` or else by what `keeping` is given.

    """
    target, use = Path(os.path.realpath(path)), use or _USE.get()
    if use is not None and target.is_file() and (why := use(target)):
        raise UsageError(f"{os.fspath(path)}: {why}, which would be lost; write to another file")


def write(path: Name, data: bytes) -> None:
    """Replace a file's content, as `write_by`."""
    write_by(path, lambda file: file.write(data))


def write_by(path: Name, write_to: Callable[[IO[bytes]], object]) -> None:
    """Replace a file's content at once, which a function writes: a failure leaves the old one and no temporary file.

    The function is given an empty file that it may seek and read in.

    Links are followed, and a file that is there keeps its owner and mode. A device or a pipe is written to.

    Raises:
        OSError: as the system reports it, naming `path`.
        UsageError: the file is in use (`keeping`).

    """
    _check_name(path)
    check_replaceable(path)
    try:
        target = Path(os.path.realpath(path))
        try:
            old = target.stat()
        except FileNotFoundError:
            old = None
        if old is None or stat.S_ISREG(old.st_mode):
            _replace(target, write_to, old)
        else:
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CLOEXEC), "wb") as file, tempfile.TemporaryFile() as made:
                write_to(made)
                made.seek(0)
                shutil.copyfileobj(made, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _replace(target: Path, write_to: Callable[[IO[bytes]], object], old: os.stat_result | None) -> None:
    """Write a new file beside the old one, which takes its place."""
    temporary = target.with_name(f".sparsec-{secrets.token_hex(8)}")  # short, however long the name is
    try:
        with temporary.open("x+b", WRITTEN_AT_ONCE) as file:
            if old is not None:
                made = os.fstat(file.fileno())
                if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The folder of what sparsec measures, in the user's cache directory."""
    import platformdirs

    return platformdirs.user_cache_path("sparsec", appauthor=False)


def make_own(folder: Path) -> None:
    """Make a folder of the cache, and those above it, for the user alone.

    Raises:
        OSError: it cannot be made; or it is there, and another owns it or may write to it.

    """
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        each.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(folder))
    if not _is_users(folder.stat()):
        raise PermissionError(errno.EACCES, "others own its folder, or may write there", os.fspath(folder))


def _is_users(found: os.stat_result) -> bool:
    """Whether the user alone can have written there."""
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def shown(path: Path) -> str:
    """A path as it is printed, with `~` for the user's folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def is_own(path: Path) -> bool:
    """Whether a file of the cache is there and nobody else can have written it; warns where somebody can."""
    try:
        both = [each.stat() for each in (path.parent, path)]
    except OSError:
        return False
    mine = all(map(_is_users, both))
    if not mine and stat.S_ISREG(both[1].st_mode):
        warnings.warn(f"{path} is ignored: others own it or its folder, or may write there; `chmod go-w` both, or "
                      "remove the file", stacklevel=3)
    return mine and stat.S_ISREG(both[1].st_mode)
