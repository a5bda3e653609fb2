"""Input shapes that take several sizes: every combination of them is a bucket, with static shapes of its own."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral

import onnx_ir as ir

from sparsec.errors import ShapeError

_SIZES = re.compile(r"[0-9]{1,18}(\.\.[0-9]{1,18})?(/[0-9]{1,18}(\.\.[0-9]{1,18})?)*")

Shapes = Mapping[str, Sequence[int | str]]
"""By input: sizes, each a number or several as text: "1..8" for all from 1 to 8, "1/8/32" for those listed, or both."""


Dims = Mapping[str, int | str]
"""By symbol of the inputs' shapes: a size, or the range that the run may choose from, as in "1..512"."""

_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


def bound_dims(dims: Dims) -> dict[str, int]:
    """The symbols that have one size."""
    return {name: int(size) for name, size in dims.items() if isinstance(size, Integral)}


def ranges(dims: Dims) -> dict[str, tuple[int, int]]:
    """The least and the largest size of the symbols that have several.

    Raises:
        ShapeError: a size is neither a number nor a range, or negative.

    """
    found = {}
    for name, size in dims.items():
        if isinstance(size, Integral) and int(size) >= 0:
            continue
        given = _RANGE.fullmatch(size) if isinstance(size, str) else None
        if given is None or int(given[1]) > int(given[2]):
            raise ShapeError(f"dimension '{name}' cannot have the size '{size}'; give a number, or a range such as "
                             "1..512")
        found[name] = int(given[1]), int(given[2])
    return found


def check_dims(model: ir.Model, dims: Dims, shapes: Shapes | None = None) -> None:
    """Raises ShapeError where a symbol is none of the model's inputs', or where a shape gives it another size."""
    symbols = dict.fromkeys(dim.value for value in model.graph.inputs for dim in value.shape or ()
                            if isinstance(dim, ir.SymbolicDim) and dim.value)
    if unknown := [name for name in dims if name not in symbols]:
        there = ", ".join(f"'{name}'" for name in symbols) or "no symbolic dimensions"
        raise ShapeError(f"no input has a dimension '{unknown[0]}'; the model has {there}")
    for value in model.graph.inputs:
        given = (shapes or {}).get(value.name or "", ())
        for dim, size in zip(value.shape or (), given, strict=False):  # another rank is refused where shapes are bound
            name = str(None if isinstance(dim, int) else dim.value)
            if name in dims and not (isinstance(size, Integral) and size == dims[name]):
                options = f"dims={{{name!r}: {dims[name]!r}}} and shapes={{{value.name!r}: {tuple(given)}}}"
                raise ShapeError(f"{options} give dimension '{name}' two sizes; leave one of them out")


def is_fixed(shapes: Shapes) -> bool:
    """Whether every size is one number."""
    return all(isinstance(size, Integral) for shape in shapes.values() for size in shape)


def fixed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of single numbers, as such; a ShapeError where one is several."""
    several = [name for name, shape in shapes.items() if not is_fixed({name: shape})]
    if several:
        raise ShapeError(f"input '{several[0]}' is to have several sizes; give single numbers here")
    return {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}


def buckets(model: ir.Model, shapes: Shapes, most: int) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of every bucket: all combinations of sizes that give a symbol of the model one size everywhere.

    Raises:
        ShapeError: a size that is none, a symbol without a size in common, or more than `most` combinations.

    """
    symbols = {value.name: value.shape for value in model.graph.inputs if value.shape is not None}
    axes: dict[str, list[str]] = {}
    choices: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        axes[name] = [_key(symbols.get(name), name, axis) for axis in range(len(shape))]
        for key, size in zip(axes[name], shape, strict=True):
            sizes = _sizes(name, size, most)
            choices[key] = [each for each in choices.get(key, sizes) if each in sizes]
            if not choices[key]:
                raise ShapeError(f"the sizes given for dimension {key} have none in common; give equal ones")
    count = math.prod(map(len, choices.values()))
    if count > most:
        raise ShapeError(f"the shapes make {count} buckets, at most {most} fit into an artifact; "
                         "list fewer sizes, such as 1/8/32")
    return [{name: tuple(chosen[key] for key in keys) for name, keys in axes.items()}
            for sizes in itertools.product(*choices.values()) for chosen in [dict(zip(choices, sizes, strict=True))]]


def _key(shape: ir.Shape | None, name: str, axis: int) -> str:
    """What names a dimension: its symbol, else its place."""
    dim = shape[axis] if shape is not None and axis < len(shape) else None
    return dim.value if isinstance(dim, ir.SymbolicDim) and dim.value else f"{axis} of '{name}'"


def _sizes(name: str, size: int | str, most: int) -> list[int]:
    """The sizes that a number or a text stands for, in ascending order; of a range not many more than `most`."""
    if not isinstance(size, str):
        return [int(size)]
    sizes: set[int] = set()
    for part in size.split("/") if _SIZES.fullmatch(size) else ():
        first, _, last = part.partition("..")
        sizes.update(range(int(first), int(last or first) + 1)[:most + 1])
    if not sizes:
        raise ShapeError(f"input '{name}' cannot have the size '{size}'; give a number, a range such as 1..8, or a "
                         "list such as 1/8/32")
    return sorted(sizes)
