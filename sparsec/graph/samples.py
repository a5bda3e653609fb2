"""Samples of a model's inputs, checked before they cost time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.errors import UsageError
from sparsec.graph.nodes import LAYERS, bodies


@dataclass(frozen=True)
class Declared:
    """An input as a model declares it.

    Attributes:
        name: the input's.
        shape: with None for sizes that the file leaves open; None where it gives no shape at all.
        dtype: of its elements, None where the file does not say.
        masks: whether it reaches no layer but through a softmax, as a mask of attention does.

    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype | None
    masks: bool = False

    @property
    def rows(self) -> int:
        """The rows of one sample; 0 where one array serves all samples."""
        return 0 if self.shape == () else (self.shape or (None,))[0] or 1


def declared(model: ir.Model) -> list[Declared]:
    """The inputs of a model."""
    return [Declared(value.name or "", _open(value.shape), None if value.dtype is None else value.dtype.numpy(),
                     _masks(value)) for value in model.graph.inputs]


def _masks(value: ir.Value) -> bool:
    """Whether a value reaches no layer but through a softmax."""
    waiting, seen = [value], {value}
    while waiting:
        for node in waiting.pop().consumers():
            if node.op_type in LAYERS or any(bodies(node)):
                return False
            if "Softmax" not in node.op_type and "Attention" not in node.op_type:
                waiting += [each for each in node.outputs if each not in seen]
                seen.update(node.outputs)
    return True


def _open(shape: ir.Shape | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def check_samples(inputs: Sequence[Declared], arrays: Mapping[str, np.ndarray]) -> None:
    """Check that arrays are samples of these inputs, with n times the rows that one takes.

    Raises:
        UsageError: one is missing or no input's, has a wrong shape or type, or holds NaN or infinity.

    """
    if unknown := sorted(set(arrays) - {each.name for each in inputs}):
        raise UsageError(f"samples: the model has no input '{unknown[0]}'; its inputs are "
                         f"{', '.join(each.name for each in inputs)}")
    for each in inputs:
        if each.name not in arrays:
            raise UsageError(f"samples: the model's input '{each.name}' is missing")
        _check_sample(each, arrays[each.name])
    check_finite(inputs, arrays)


def check_finite(inputs: Sequence[Declared], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UsageError where samples hold NaN or infinity, from which nothing can be calibrated.

    A mask of attention may hold negative infinity, of which its softmax leaves nothing.
    """
    masks = {each.name for each in inputs if each.masks}
    for name, array in arrays.items():
        fine = np.asarray(array).dtype.kind != "f" or np.isfinite(array) | (np.isneginf(array) & (name in masks))
        if not np.all(fine):
            raise UsageError(f"samples: input '{name}' holds NaN or infinity; leave such samples out")


def _check_sample(given: Declared, array: np.ndarray) -> None:
    shape = array.shape if given.shape is None else given.shape
    fits = array.ndim == len(shape) and all(own in (None, size) for own, size
                                            in zip(shape[1:], array.shape[1:], strict=True))
    if not fits or (shape and (not len(array) or len(array) % given.rows)):
        text = "x".join("?" if size is None else str(size) for size in shape) or "scalar"
        raise UsageError(f"samples: input '{given.name}' takes {text}; the samples hold "
                         f"{'x'.join(map(str, array.shape)) or 'a scalar'}")
    if given.dtype is not None and array.dtype != given.dtype:
        raise UsageError(f"samples: input '{given.name}' is of type {given.dtype}; the samples are {array.dtype}")
