"""The file of an artifact: a zip whose weights are stored as they are, aligned, so that sessions can map them.

The zip's comment is the SHA-256 of all bytes before it. Files of over 2 GiB are zip64.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, cast

from sparsec import files
from sparsec.artifact.weights import CHUNK, Weights
from sparsec.errors import ArtifactError
from sparsec.machine import huge_pages
from sparsec.machine.memory import ALIGNMENT

MEMBERS = ("manifest.json", "library.bin", "weights.bin", "graph.onnx", "report.json")
SHARED = "weights.bin"
"""The member that all buckets have in common."""

MOST_BUCKETS = 64
MAGIC = b"PK"  # of zip files
BUNDLE = b"SPARSECB"
"""What the file of a bundle's model begins with; see `native.model_file`."""
MAPPED_BYTES = 64 << 20
"""Size of a file from which on its weights are mapped when it is opened, and not read."""

_DIGEST_LENGTH = hashlib.sha256().digest_size * 2
_JSON_BYTES = 8 << 20  # of text, whose objects take up to 24 times as much memory
_LOCAL_HEADER, _ZIP64_FIELD = 30, 20  # bytes of a member's header without its name, and of its sizes in 64 bits
_PADDING = 0xD935  # the zip field that aligns members
_PADDING_FIELD = 6
_FEW = 4  # arrays of another file that its refusal names


@dataclass(frozen=True)
class Contents:
    """The members of an artifact's file; `weights_sha256` is None where the weights were not read."""

    members: Mapping[str, bytes]
    weights: Weights
    weights_sha256: str | None
    nbytes: int


def name_of(member: str, index: int) -> str:
    """What a bucket's member is called in the file."""
    return member if member == SHARED or not index else f"{index}/{member}"


def names(buckets: int) -> list[str]:
    """The members of a file of so many buckets, in order."""
    return [*MEMBERS, *(name_of(member, index) for index in range(1, buckets) for member in MEMBERS
                        if member != SHARED)]


def write(file: IO[bytes], members: Mapping[str, bytes], weights: Weights) -> None:
    """Write an artifact into an empty file that can be read and sought in; `members` are all others, in order."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*MEMBERS, *(each for each in members if each not in MEMBERS)):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            if name == SHARED:
                _write_weights(archive, info, weights, file.tell())
            else:
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, members[name])
        archive.comment = b" " * _DIGEST_LENGTH
    digest = _hash_of(file, 0, file.seek(0, os.SEEK_END) - _DIGEST_LENGTH)
    file.seek(-_DIGEST_LENGTH, os.SEEK_END)
    file.write(digest.encode())


def _write_weights(archive: zipfile.ZipFile, info: zipfile.ZipInfo, weights: Weights, start: int) -> None:
    """Store the weights so that they begin at a multiple of `ALIGNMENT` of the file."""
    large = len(weights) > zipfile.ZIP64_LIMIT // 2
    header = _LOCAL_HEADER + len(info.filename) + (_ZIP64_FIELD if large else 0) + _PADDING_FIELD
    missing = -(start + header) % ALIGNMENT
    info.extra = struct.pack("<HHH", _PADDING, 2 + missing, ALIGNMENT) + bytes(missing)
    info.file_size = len(weights)
    with archive.open(info, "w", force_zip64=large) as member:
        for chunk in weights.chunks():
            member.write(chunk)


def _hash_of(file: IO[bytes], start: int, size: int) -> str:
    """The SHA-256 of a part of a file, in hexadecimal."""
    digest = hashlib.sha256()
    file.seek(start)
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def read(name: str, data: bytes | memoryview) -> Contents:
    """The members of an artifact's bytes, all of which are checked against the file's hash.

    Raises:
        ArtifactError: it is none, or damaged.

    """
    view = memoryview(data)
    return _unpack(name, cast("IO[bytes]", _Stream(view)), view, whole=True)


def open_mapped(path: str | os.PathLike[str], *, whole: bool) -> Contents:
    """The members of an artifact's file with its weights mapped; with `whole` every byte is read once and checked.

    Raises:
        ArtifactError: as `read`.
        OSError: it cannot be read.

    """
    with files.open_regular(path) as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # shared with other processes until written to
        huge_pages.advise(mapping)
        return _unpack(os.fspath(path), file, memoryview(mapping), whole=whole)


def in_memory(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a regular file in memory of their own, where nobody can change them, aligned for kernels.

    Raises:
        OSError: it cannot be read.

    """
    with files.open_regular(path) as file:
        memory = mmap.mmap(-1, max(1, os.fstat(file.fileno()).st_size), huge_pages.PRIVATE)
        huge_pages.advise(memory)
        room = memoryview(memory)
        return room[:file.readinto(room)]


class _Stream(io.BufferedIOBase):
    """A buffer as a file to read, without a copy of it."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted from the begin, from where it is, or from the end."""
        self._at = max(0, (0, self._at, len(self._data))[whence] + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        end = len(self._data) if size is None or size < 0 else self._at + size
        found = bytes(self._data[self._at:end])
        self._at += len(found)
        return found


def _other(file: IO[bytes]) -> str:
    """What a zip file is that is no artifact."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, ArithmeticError, NotImplementedError, struct.error):
        return "is a damaged zip file and"
    arrays = [each.removesuffix(".npy") for each in members if each.endswith(".npy")]
    if not arrays:
        return f"is a {'PyTorch' if any(each.endswith('data.pkl') for each in members) else 'zip'} file and"
    shown = ", ".join(arrays[:_FEW]) + (f" and {len(arrays) - _FEW} more" if len(arrays) > _FEW else "")
    return f"holds arrays ({shown}), as --input takes them, and is"


def _unpack(name: str, file: IO[bytes], data: memoryview, *, whole: bool) -> Contents:
    """The members of an artifact file, none of them larger than the file allows."""
    first = MEMBERS[0].encode()
    is_other_zip = len(data) >= _LOCAL_HEADER + len(first) and bytes(data[_LOCAL_HEADER:][:len(first)]) != first
    is_zip = bytes(data[:len(MAGIC)]) == MAGIC
    if bytes(data[:len(BUNDLE)]) == BUNDLE:
        raise ArtifactError(f"{name} is the model of a bundle, which the programs beside it run; give the artifact "
                            "that it was bundled from")
    if not is_zip or is_other_zip:
        what = f"{_other(file)} neither an ONNX model nor" if is_zip else "is not"
        raise ArtifactError(f"{name} {what} a sparsec artifact; `sparsec compile MODEL.onnx` writes one")
    damaged = f"{name} is damaged; copy it again or compile the model again"
    rest = len(data) - _DIGEST_LENGTH
    if whole and _hash_of(file, 0, rest).encode() != bytes(data[max(0, rest):]):
        raise ArtifactError(damaged)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            buckets = (len(members) - 1) // (len(MEMBERS) - 1)
            cut_off = len(archive.comment) != _DIGEST_LENGTH
            if cut_off or buckets > MOST_BUCKETS or [m.filename for m in members] != names(buckets):
                raise ArtifactError(damaged)
            files.check_members(archive, files.LARGEST_RATIO * len(data))
            if sum(m.file_size for m in members if m.filename.endswith(".json")) > max(_JSON_BYTES, 2 * len(data)):
                raise ArtifactError(f"{name}: its manifest and report take over {_JSON_BYTES} bytes, more than "
                                    "sparsec writes; compile the model again")
            contents = {m.filename: archive.read(m) for m in members if m.filename != SHARED}
            weights, start = _weights_of(archive, data)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError, struct.error) as error:
        raise ArtifactError(damaged) from error
    found = _hash_of(file, start, len(weights)) if start and whole else weights.sha256() if whole else None
    return Contents(contents, weights, found, len(data))


def _weights_of(archive: zipfile.ZipFile, data: memoryview) -> tuple[Weights, int]:
    """The weights in the file, whose bytes `data` are, and where they begin; unpacked, and 0, if they are not stored.

    Raises:
        ValueError, struct.error: they lie outside of the file.

    """
    info = archive.getinfo(SHARED)
    if info.compress_type != zipfile.ZIP_STORED:
        return Weights.of(archive.read(info)), 0
    name_length, extra_length = struct.unpack("<HH", data[info.header_offset + 26:info.header_offset + 30])
    start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    if info.compress_size != info.file_size or not 0 <= start <= start + info.file_size <= len(data):
        raise ValueError("its weights lie beyond its end")
    return Weights.of(data[start:start + info.file_size]), start
