"""Weights in an artifact that are smaller than the arrays that kernels read: stored in a format, packed when opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.backends.program import Packed
from sparsec.formats import CODECS, FORMATS, Encoded, huffman
from sparsec.formats.bits import Stream
from sparsec.formats.smallest import smallest
from sparsec.kernels.packing import RECIPES


@dataclass(frozen=True)
class StoredStream:
    """One stream of a weight and where its bytes lie."""

    name: str
    count: int
    bits: int
    coding: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a format, with what makes it a kernel's arrays.

    Attributes:
        format, codec: keys of `FORMATS` and `CODECS`.
        shape: of the matrix.
        streams: the encoded weight.
        recipe, parameters: a key of `RECIPES` and its fields.
        constants: which of the program's constants the recipe's arrays are, in order.

    """

    format: str
    codec: str
    shape: tuple[int, ...]
    streams: tuple[StoredStream, ...]
    recipe: str
    parameters: dict[str, Any]
    constants: tuple[int, ...]


def encode(packed: Packed, codec: str) -> Encoded:
    """The weight in its smallest format, Huffman-coded where that is smaller still."""
    encoded = smallest(packed.weight, CODECS[codec])
    streams = {name: huffman.shrink(stream) for name, stream in encoded.streams.items()}
    return Encoded(encoded.format, encoded.codec, encoded.shape, streams)


def store(packed: Packed, encoded: Encoded, append: Callable[[np.ndarray], int]) -> StoredWeight:
    """The entry of a weight whose streams `append` places, answering with their offsets."""
    streams = tuple(StoredStream(name, stream.count, stream.bits, stream.coding, append(stream.data), stream.nbytes)
                    for name, stream in encoded.streams.items())
    return StoredWeight(encoded.format.name, encoded.codec.name, encoded.shape, streams,
                        type(packed.recipe).__name__, vars(packed.recipe), packed.constants)


def restore(stored: StoredWeight, data: memoryview) -> dict[int, np.ndarray]:
    """The kernel's arrays by the number of the constant."""
    streams = {each.name: Stream(np.frombuffer(data[each.offset:each.offset + each.nbytes], np.uint8), each.count,
                                 each.bits, each.coding) for each in stored.streams}
    form, codec = FORMATS[stored.format], CODECS[stored.codec]
    weight = form.decode(Encoded(form, codec, stored.shape, streams))
    arrays = RECIPES[stored.recipe](**stored.parameters).pack(weight).values()
    return dict(zip(stored.constants, arrays, strict=True))


def from_json(fields: dict[str, Any]) -> StoredWeight:
    """The entry of its JSON form."""
    parameters = {name: tuple(value) if isinstance(value, list) else value
                  for name, value in fields["parameters"].items()}
    return StoredWeight(**{**fields, "shape": tuple(fields["shape"]), "parameters": parameters,
                           "constants": tuple(fields["constants"]),
                           "streams": tuple(StoredStream(**stream) for stream in fields["streams"])})


def fits(stored: StoredWeight, packed: Sequence[int], size: int) -> bool:
    """Whether an entry names formats that there are, constants that are to be packed, and bytes below `size`."""
    known = stored.format in FORMATS and stored.codec in CODECS and stored.recipe in RECIPES
    inside = all(0 <= each.offset <= each.offset + each.nbytes <= size for each in stored.streams)
    return known and inside and set(stored.constants) <= set(packed)
