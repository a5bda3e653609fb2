"""Whether a file can be an ONNX model as protobuf frames it, told by its outermost fields: before anything is imported.

A ModelProto is a row of fields, each with its number and kind in front; what it weighs lies in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from sparsec.errors import ModelError

IR_VERSION, GRAPH = 1, 7
"""The fields of a ModelProto that every model has."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
LONGEST = 10
"""Bytes of a varint."""


def check_framing(where: str, file: IO[bytes], nbytes: int) -> None:
    """Check that the fields of a file of so many bytes fit into it, and that those of a model are there.

    Raises:
        ModelError: they are not.

    """
    begin = file.read(1)
    file.seek(0)
    try:
        found = {*_fields(file, nbytes)}
    except ValueError as error:
        # a ModelProto is written in field order and starts with its IR version
        what = "truncated or damaged" if begin == b"\x08" else "not an ONNX model"
        raise ModelError(f"{where}: {what}; export or copy it again") from error
    if not {IR_VERSION, GRAPH} <= found:
        raise ModelError(f"{where}: not an ONNX model; pass a file that an ONNX exporter wrote")


def _fields(file: IO[bytes], nbytes: int) -> Iterator[int]:
    """The numbers of the fields in order; a ValueError where one is of no kind, or longer than the file."""
    while file.tell() < nbytes:
        number, kind = divmod(_varint(file), 8)
        if kind == VARINT:
            _varint(file)
        elif kind in (FIXED64, FIXED32, BYTES):
            length = _varint(file) if kind == BYTES else 8 if kind == FIXED64 else 4
            file.seek(length, 1)
        if kind not in (VARINT, FIXED64, FIXED32, BYTES) or not number or file.tell() > nbytes:
            raise ValueError
        yield number


def _varint(file: IO[bytes]) -> int:
    """A number of seven bits a byte, the lowest first."""
    value = 0
    for place in range(LONGEST):
        if not (byte := file.read(1)):
            raise ValueError
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    raise ValueError
