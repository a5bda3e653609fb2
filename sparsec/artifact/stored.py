"""Weights in an artifact that are smaller than the arrays that kernels read: stored in a format, packed when opened.

Formats and recipes are imported by what needs them: sessions open most small artifacts without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sparsec.artifact.weights import Weights
from sparsec.backends.program import Packed

if TYPE_CHECKING:
    from sparsec.formats import Encoded
    from sparsec.kernels.packing import Recipe

ELEMENT_BYTES = 32
"""Bytes of memory that decoding and packing take for an element of a weight, about."""


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
    from sparsec.formats import CODECS, Encoded, huffman
    from sparsec.formats.smallest import smallest

    encoded = smallest(packed.weight, CODECS[codec])
    streams = {name: huffman.shrink(stream) for name, stream in encoded.streams.items()}
    return Encoded(encoded.format, encoded.codec, encoded.shape, streams)


def store(packed: Packed, encoded: Encoded, append: Callable[[np.ndarray], int]) -> StoredWeight:
    """The entry of a weight whose streams `append` places, answering with their offsets."""
    streams = tuple(StoredStream(name, stream.count, stream.bits, stream.coding, append(stream.data), stream.nbytes)
                    for name, stream in encoded.streams.items())
    return StoredWeight(encoded.format.name, encoded.codec.name, encoded.shape, streams,
                        type(packed.recipe).__name__, vars(packed.recipe), packed.constants)


def restore(stored: StoredWeight, data: Weights) -> dict[int, np.ndarray]:
    """The kernel's arrays by the number of the constant."""
    from sparsec.formats import CODECS, FORMATS, Encoded
    from sparsec.formats.bits import Stream

    streams = {each.name: Stream(np.frombuffer(data.part(each.offset, each.nbytes), np.uint8), each.count, each.bits,
                                 each.coding) for each in stored.streams}
    form, codec = FORMATS[stored.format], CODECS[stored.codec]
    weight = form.decode(Encoded(form, codec, stored.shape, streams))
    return dict(zip(stored.constants, _recipe(stored).pack(weight).values(), strict=True))


def is_affordable(elements: int, most: int) -> bool:
    """Whether so many elements may be decoded, or packed, in that many bytes of memory."""
    return elements * ELEMENT_BYTES <= most


def check_stored(stored: StoredWeight, packed: Sequence[int], size: int, most: int) -> None:
    """Check an entry before anything is decoded.

    Args:
        stored: of the right types.
        packed: the constants that follow from stored weights.
        size: bytes of the weights.
        most: bytes of memory that reading may take.

    Raises:
        ValueError: it names what there is not, its streams are no streams, or decoding takes too much memory.

    """
    from sparsec.formats import CODECS, FORMATS
    from sparsec.kernels.packing import RECIPES

    if not (stored.format in FORMATS and stored.codec in CODECS and stored.recipe in RECIPES):
        raise ValueError("a stored weight is of a format, codec or recipe that there is not")
    if not set(stored.constants) <= set(packed):
        raise ValueError("a stored weight makes constants that the manifest does not list as packed")
    if len(stored.shape) != 2 or min(stored.shape) < 1:
        raise ValueError(f"a stored weight has the shape {list(stored.shape)[:8]}")
    if not all(_is_stream(each, size, most) for each in stored.streams):
        raise ValueError("a stored weight does not fit the weights")
    rows, columns = stored.shape
    recipe = _recipe(stored)
    recipe.check()
    if not is_affordable(max(rows * columns, recipe.elements(rows, columns)), most):
        raise ValueError(f"a stored weight takes over {most} bytes of memory")


def _recipe(stored: StoredWeight) -> Recipe:
    """The recipe with its parameters; msgspec.ValidationError where they are of other types."""
    from sparsec.kernels.packing import RECIPES

    kind = RECIPES[stored.recipe]
    if set(stored.parameters) - {each.name for each in fields(kind)}:  # type: ignore[arg-type]  # all are dataclasses
        raise ValueError(f"{stored.recipe} has unknown parameters")
    return msgspec.convert(stored.parameters, kind)


def _is_stream(stream: StoredStream, size: int, most: int) -> bool:
    """Whether a stream lies below `size` bytes and has the length of its symbols."""
    inside = 0 <= stream.offset <= stream.offset + stream.nbytes <= size
    if not (inside and stream.count >= 0 and 0 <= stream.bits <= 64 and is_affordable(stream.count, most)):
        return False
    if stream.coding == "packed":
        return stream.nbytes == -(-stream.count * stream.bits // 8)
    from sparsec.formats import huffman

    return stream.coding == "huffman" and huffman.fits(stream.count, stream.bits, stream.nbytes)
