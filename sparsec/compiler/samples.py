"""Random inputs for a model whose dimensions are symbolic: at a few sizes within their limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.inference import input_shapes
from sparsec.analysis.symbols.size import Size, is_name
from sparsec.backends.job import Feeds
from sparsec.errors import InputError, ShapeError, meant
from sparsec.graph.compare import random_feeds

SMALL, LARGE = 3, 33
"""Sizes to begin with: of what may be tokens or a batch, and of what may be pixels, which windows must fit into."""
IMAGE_RANK, FIRST_PIXELS = 4, 2
"""Floats of at least so many dimensions may be images, whose pixels lie from this axis on."""
VOLUME_RANK = 5
"""Of samples of more dimensions, pixels are few, too, so that they fit into memory."""
TOKENS, PIXELS = 128, 224
"""Usual sizes, of texts, signals and caches, and of images."""
SHARES = (1, 2, 8, 128)
"""What usual sizes are divided by in turn, where a network takes none so large, of which shapes may not tell."""


def sampled(model: ir.Model, limits: Mapping[str, tuple[int, int]]) -> list[Feeds]:
    """Random inputs for all dimensions of different sizes, and for the smallest there are but 0.

    Raises:
        ShapeError: the rank of an input is not known.

    """
    shapes = input_shapes(model.graph)
    if unknown := [value.name for value in model.graph.inputs if value not in shapes]:
        raise ShapeError(f"input '{unknown[0]}' has no shape at all; pass it, such as "
                         f"shapes={{{unknown[0]!r}: (1, 3, 224, 224)}}")
    symbols = _different(shapes)
    least = {name: LARGE if size >= LARGE else 1 for name, size in symbols.items()}
    _add_up(symbols)
    _add_up(least)
    return [_feeds(model, {name: _within(size, limits.get(name)) for name, size in sizes.items()})
            for sizes in (symbols, least)]


def usual(inputs: Iterable[ir.Value], limits: Mapping[str, tuple[int, int]], share: int = 1) -> dict[str, int]:
    """By symbolic dimension a size that networks usually run at, or a `share` of it: one row, so many tokens or pixels.

    Images are floats that end in unknown sizes. A decoder with caches, whose dimensions are called past, takes one
    token behind as many.
    """
    found: dict[str, int] = {}
    tokens, pixels = TOKENS // share, PIXELS // share
    for value in inputs:
        shape = list(value.shape or ())
        images = (len(shape) >= IMAGE_RANK and value.dtype is not None and value.dtype.is_floating_point()
                  and isinstance(shape[1], int) and not isinstance(shape[-1], int))  # caches end in a known size
        for axis, dim in enumerate(shape):
            if isinstance(dim, int) or not dim.value or not is_name(dim.value):
                continue
            found.setdefault(dim.value, 1 if axis == 0 else pixels if images and axis >= FIRST_PIXELS else tokens)
    if any("past" in name for name in found):
        found |= {name: 1 for name in found if "seq" in name and "past" not in name and "total" not in name}
        past = max(size for name, size in found.items() if "past" in name)
        found |= {name: past + 1 for name in found if "total" in name or "+" in name}
    return {name: min(max(size, limits[name][0]), limits[name][1]) if name in limits else size
            for name, size in found.items()}


def advised(inputs: Iterable[ir.Value], limits: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """A size for every symbolic dimension, to name in advice: the usual one, and 1 where the name tells nothing."""
    values = list(inputs)
    names = [dim.value for value in values for dim in value.shape or () if not isinstance(dim, int) and dim.value]
    return dict.fromkeys((name for name in names if "+" not in name), 1) | usual(values, limits)


def sample_of(model: ir.Model, limits: Mapping[str, tuple[int, int]], given: Mapping[str, Sequence[int]],
              dims: Mapping[str, int] | None = None, others: Mapping[str, int] | None = None) -> Feeds:
    """Random inputs for the sizes that some inputs or dimensions are given, and `others`, or small ones, for the rest.

    Raises:
        ShapeError: an input cannot have the shape, or there is no such dimension.

    """
    shapes = input_shapes(model.graph)
    sizes = {name: _within(size, limits.get(name)) for name, size in _different(shapes).items()}
    if unknown := [name for name in dims or {} if name not in sizes]:
        raise ShapeError(f"no input has a dimension '{unknown[0]}' that the run tells the size of; there is "
                         f"{', '.join(map(repr, sizes))}")
    sizes.update({name: size for name, size in (others or {}).items() if name in sizes})
    sizes.update(dims or {})
    _add_up(sizes)
    sizes.update(dims or {})
    values = {value.name: value for value in shapes}
    for name, shape in given.items():
        if name not in values:
            raise ShapeError(f"the model has no input '{name}'; {meant(name, map(str, values))}its inputs are "
                             f"{', '.join(map(repr, values))}")
        own = shapes[values[name]]
        sizes.update((str(size), wanted) for size, wanted in zip(own, shape, strict=False) if str(size) in sizes)
        if len(own) != len(shape) or [size.value(sizes) for size in own] != list(shape):
            raise ShapeError(f"input '{name}' cannot have the shape {list(shape)}; it takes "
                             f"({', '.join(map(str, own))})")
    return _feeds(model, sizes)


def open_samples(model: ir.Model, inputs: Feeds, limits: Mapping[str, tuple[int, int]]) -> list[Feeds]:
    """Real inputs of a model that leaves sizes open: one sample, or several of as many rows as there may be.

    Raises:
        InputError: they are not the model's.
        ShapeError: one has sizes that the model or a range does not allow.

    """
    expected = {value.name: "float32" if value.dtype is None else value.dtype.numpy().name
                for value in model.graph.inputs}
    given = {name: np.asarray(array).dtype.name for name, array in inputs.items()}
    if given != expected:
        raise InputError(f"the model takes the inputs {expected}; given: {given}")
    firsts = {_symbol(value, 0) for value in model.graph.inputs}
    rows = {len(array) for array in inputs.values() if np.ndim(array)}
    least, most = limits.get(next(iter(firsts)) or "", (0, 0)) if len(firsts) == len(rows) == 1 else (0, 0)
    count = max(rows, default=0)
    samples: list[Feeds] = [inputs] if not most or count <= most else [
        {name: array[first:first + most] for name, array in inputs.items()}
        for first in range(0, count, most) if count - first >= least]
    for sample in samples:
        _check_sizes(model, sample, limits)
    return samples


def _symbol(value: ir.Value, axis: int) -> str | None:
    """The name of a dimension that is open."""
    dims = list(value.shape or ())[axis:axis + 1]
    return next((dim.value for dim in dims if not isinstance(dim, int)), None)


def _check_sizes(model: ir.Model, feeds: Feeds, limits: Mapping[str, tuple[int, int]]) -> None:
    """Raises ShapeError where inputs have sizes that the model or a range does not allow."""
    for value in model.graph.inputs:
        found = np.shape(feeds[value.name or ""])
        shape = list(value.shape or ())
        if value.shape is not None and (len(shape) != len(found) or any(
                isinstance(dim, int) and dim != size for dim, size in zip(shape, found, strict=True))):
            raise ShapeError(f"input '{value.name}' takes ({', '.join(map(str, shape))}); given: {list(found)}")
        for axis, size in enumerate(found):
            low, high = limits.get(_symbol(value, axis) or "", (size, size))
            if not low <= size <= high:
                raise ShapeError(f"dimension '{_symbol(value, axis)}' is {size} in input '{value.name}', and is to be "
                                 f"{low} to {high}; give inputs of such sizes, or a wider range")


def _different(shapes: Mapping[ir.Value, Sequence[Size]]) -> dict[str, int]:
    """A size of its own for every symbol."""
    symbols: dict[str, int] = {}
    for value, shape in shapes.items():
        pixels = IMAGE_RANK <= len(shape) <= VOLUME_RANK and value.dtype == ir.DataType.FLOAT
        for axis, size in enumerate(shape):
            start = LARGE if pixels and axis >= FIRST_PIXELS else SMALL
            for name in sorted(size.symbols):
                symbols.setdefault(name, start + 2 * len(symbols))
    return symbols


def _add_up(sizes: dict[str, int]) -> None:
    """Let a dimension that is called a total be the sum of the past and the new tokens, as exporters name them."""
    past = [name for name in sizes if name.startswith("past")]
    new = [name for name in sizes if "seq" in name and not name.startswith(("past", "total"))]
    for name in sizes:
        if name.startswith("total") and len(past) == len(new) == 1:
            sizes[name] = sizes[past[0]] + sizes[new[0]]


def _within(size: int, limit: tuple[int, int] | None) -> int:
    return size if limit is None else min(max(size, limit[0]), limit[1])


def _feeds(model: ir.Model, sizes: Mapping[str, int]) -> Feeds:
    """Random inputs for these sizes of the symbols."""
    before = [value.shape for value in model.graph.inputs]
    try:
        for value, shape in input_shapes(model.graph).items():
            value.shape = ir.Shape([size.value(sizes) for size in shape])
        return random_feeds(model)
    finally:
        for value, old in zip(model.graph.inputs, before, strict=True):
            value.shape = old
