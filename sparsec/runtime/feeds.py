"""What a call gives and asks for beside a signature: as it is expected, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from sparsec.backends.program import TensorSpec
from sparsec.errors import InputError
from sparsec.machine.memory import element_type
from sparsec.runtime.arguments import as_array, wrong_type
from sparsec.runtime.signature import listed


def selected(names: Sequence[str], positions: Mapping[str, int], outputs: Sequence[TensorSpec]) -> list[int]:
    """Positions of outputs by name.

    Raises:
        InputError: the model has none of a name.
        UsageError: that is no list of names.

    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise wrong_type("output_names", names, "a list of outputs' names, or None for all")
    if unknown := [name for name in names if not isinstance(name, str) or name not in positions]:
        known = ", ".join(f"'{spec.name}'" for spec in outputs)
        raise InputError(f"the model has no output {unknown[0]!r}; it has {known}")
    return [positions[name] for name in names]


def fitting_array(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], feeds: Mapping[str, np.ndarray],
                  inputs: Sequence[TensorSpec]) -> np.ndarray:
    """A feed as an array of the expected shape and element type, in whatever byte order.

    Raises:
        InputError: there is none, or it has another.

    """
    if name not in feeds:
        refuse_names(feeds, inputs)
    array = as_array(name, feeds)
    if array.dtype.newbyteorder("=") != dtype or array.shape != shape:
        way_out = ("; compile for other sizes, or from a model that leaves them open"
                   if array.ndim == len(shape) and array.shape != shape else "")
        raise InputError(f"input '{name}' takes {dtype.name} of shape {shape}; "
                         f"given: {array.dtype.name} of shape {array.shape}{way_out}")
    return array


def refuse_names(feeds: Iterable[str], inputs: Sequence[TensorSpec]) -> NoReturn:
    """Say which inputs there are, and which were given."""
    given = ", ".join(f"'{name}'" for name in feeds) or "none"
    raise InputError(f"the model takes the inputs {listed(inputs)}; given: {given}")


def viewed(outputs: Sequence[np.ndarray], specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Outputs in the element types of the model, which programs give as integers of as many bits."""
    return [array.view(element_type(spec.dtype)) for array, spec in zip(outputs, specs, strict=True)]
