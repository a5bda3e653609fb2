"""What an artifact takes and gives, as onnxruntime describes it and as errors list it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.backends.program import UNKNOWN, TensorSpec
from sparsec.machine.memory import element_type

_ELEMENT_TYPES = {"float32": "float", "float64": "double"}
"""ONNX's names of numpy's element types, where they differ."""


def dtype_of(kind: str) -> np.dtype[Any]:
    """Numpy's element type of onnxruntime's text for one, such as "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return element_type({onnx: own for own, onnx in _ELEMENT_TYPES.items()}.get(name, name))


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as onnxruntime describes it: `type` is "tensor(float)", "tensor(int64)", ….

    A dimension that buckets differ in is a text of its sizes, such as "1/8/32"; one that the run tells is the name that
    the model has for it, or "?".
    """

    name: str
    shape: list[int | str]
    type: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's element type."""
        return dtype_of(self.type)


def shapes_of(artifact: Artifact) -> tuple[tuple[int, ...], ...]:
    """The shapes of the inputs, in order: what tells buckets apart."""
    return tuple(spec.shape for spec in artifact.manifest.inputs)


def infos(buckets: Sequence[Sequence[TensorSpec]]) -> list[TensorInfo]:
    """What onnxruntime would say of the tensors of all buckets."""
    infos = []
    for specs in zip(*buckets, strict=True):
        sizes = [sorted(set(dims)) for dims in zip(*(spec.shape for spec in specs), strict=True)]
        shape: list[int | str] = ["?" if UNKNOWN in dims else dims[0] if len(dims) == 1 else "/".join(map(str, dims))
                                  for dims in sizes]
        infos.append(info(specs[0], shape))
    return infos


def info(spec: TensorSpec, shape: list[int | str]) -> TensorInfo:
    """What onnxruntime would say of one tensor."""
    return TensorInfo(spec.name, shape, f"tensor({_ELEMENT_TYPES.get(spec.dtype, spec.dtype)})")


def listed(specs: Sequence[TensorSpec | TensorInfo]) -> str:
    """Tensors with their types and shapes, for errors."""
    return ", ".join(f"'{spec.name}' ({spec.dtype} {text_of(spec.shape)})" for spec in specs) or "none"


def text_of(shape: Sequence[int | str]) -> str:
    """A shape in brackets; sizes that the run tells are names, or question marks."""
    return f"[{', '.join('?' if size == UNKNOWN else str(size) for size in shape)}]"


def named(shapes: Sequence[tuple[int, ...]], specs: Sequence[TensorSpec]) -> str:
    """Shapes of tensors with their names."""
    return ", ".join(f"'{spec.name}' {list(shape)}" for spec, shape in zip(specs, shapes, strict=True))
