"""What an artifact for run-time sizes says of its inputs and outputs, read without opening a session."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.backends.program import SIZED
from sparsec.errors import ArtifactError
from sparsec.runtime.sized.sizes import text_of

Shape = tuple[int | str, ...]
"""Sizes, names of those that the run tells, and texts of what follows from these."""


@dataclass(frozen=True)
class Declared:
    """What the plan declares.

    Attributes:
        inputs, outputs: their shapes by name.
        dims: the dimensions that the run tells the sizes of, each with the least and the largest, None without limits.

    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    dims: Mapping[str, tuple[int, int] | None]

    def sizes_of(self, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes that inputs give to the dimensions."""
        sizes = [pair for name, shape in self.inputs.items() for pair in zip(shape, feeds[name].shape, strict=True)]
        return {dim: size for dim, size in sizes if isinstance(dim, str) and dim in self.dims}


def declared(artifact: Artifact) -> Declared | None:
    """What the plan declares; None of an artifact whose shapes are fixed.

    Raises:
        ArtifactError: the plan contradicts itself.

    """
    if artifact.manifest.entry != SIZED:
        return None
    try:
        plan: dict[str, Any] = json.loads(artifact.constants()[0].tobytes())
        dims = dict.fromkeys(dim for each in plan["inputs"] for dim in each["shape"] if isinstance(dim, str))
        limits = {name: (int(least), int(most)) for name, (least, most) in plan["limits"].items()}
        return Declared({each["name"]: _shape(each["shape"]) for each in plan["inputs"]},
                        {each["name"]: _shape(each["shape"]) for each in plan["outputs"]},
                        {name: limits.get(name) for name in dims})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the artifact's plan contradicts itself ({error}); compile the model again") from error


def _shape(dims: Sequence[Any]) -> Shape:
    return tuple(dim if isinstance(dim, int | str) else text_of(dim) for dim in dims)
