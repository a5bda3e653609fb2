"""The sizes that commands choose where nobody gives them: those that `explain` and `bench` choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsec.cli.tables import console

if TYPE_CHECKING:  # the commands import what they need, so that others start fast
    from sparsec.graph.sizes import Dims


def tell_sizes(sizes: Mapping[str, int]) -> None:
    """Say which sizes have been chosen."""
    console.print(f"for {', '.join(f'{name} = {size}' for name, size in sizes.items())}; --dim and --shape give other "
                  "sizes\n")


def with_usual(model: Path, shapes: Mapping[str, Sequence[int]], dims: Dims,
               ) -> tuple[Mapping[str, Sequence[int]], Dims]:
    """Shapes and dimensions that leave no input of an ONNX model open, and says which it has chosen itself.

    Raises:
        ModelError, ShapeError: the model cannot be read, or sizes do not fit it.
        UsageError: the model has no such dimension.

    """
    from sparsec.report.any_size import priced

    at = priced(model, shapes, dims)
    if not at.assumed:
        return shapes, dims
    tell_sizes({**at.sizes, **at.assumed})
    return at.shapes, at.sizes


def is_open(model: Path, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether inputs of an ONNX model have sizes that neither the file nor `shapes` give.

    Raises:
        ModelError, ShapeError: as `with_usual`.

    """
    from sparsec.graph.reader import load
    from sparsec.graph.shapes import static_shape

    return any(static_shape(value) is None for value in load(model, shapes=shapes, symbolic=True).graph.inputs)
