"""The manifest of an artifact: what its program needs and offers, and where its constants lie."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from sparsec.artifact.stored import StoredWeight, fits, from_json
from sparsec.backends.program import STAGES, UNKNOWN, TensorSpec
from sparsec.machine.memory import ALIGNMENT
from sparsec.target import cuda_archs


@dataclass(frozen=True)
class Constant:
    """Where one constant lies in `weights.bin` and how it is stored there: a key of `DECODERS`, or `PACKED`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    encoding: str = "raw"


def _decode_raw(stored: memoryview, constant: Constant) -> np.ndarray:
    """The stored bytes as they are."""
    return np.frombuffer(stored, dtype=constant.dtype).reshape(constant.shape)


DECODERS: dict[str, Callable[[memoryview, Constant], np.ndarray]] = {"raw": _decode_raw}
"""Encoding -> function from the stored bytes to the array that the kernel reads."""

PACKED = "packed"
"""The encoding of constants that follow from a stored weight and have no bytes of their own."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact needs and offers.

    Attributes:
        schema: version of this file format.
        sparsec: version of the compiler.
        tvm: version of TVM; its runtime must be of the same release.
        platform: operating system and processor, such as "linux-x86_64".
        target: what `--target` was.
        features: instruction-set features that the library uses, by their Linux names.
        threads: the most threads it can use.
        entry: the VM function.
        inputs: the signature's inputs, in order.
        outputs: the signature's outputs, in order.
        constants: the VM function's further arguments, in order.
        objects: the bytes of each object file in the library, to be linked when loaded; empty for a shared object.
        stored: the weights that packed constants follow from.
        archs: the CUDA architectures that the library holds code for; empty where there is none.
        ptx: the version of CUDA of the library's PTX, for GPUs without code of their own; empty where there is none.
        parts: the calls of `entry` that make an inference; each takes and returns an equal share of the rows, in order.

    """

    schema: int
    sparsec: str
    tvm: str
    platform: str
    target: str
    features: tuple[str, ...]
    threads: int
    entry: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: tuple[Constant, ...]
    objects: tuple[int, ...]
    stored: tuple[StoredWeight, ...]
    archs: tuple[str, ...] = ()
    ptx: tuple[int, ...] = ()
    parts: int = 1

    @property
    def needs(self) -> Mapping[str, Sequence[str | int]]:
        """What the target's backend checks before the program is opened."""
        return {"archs": self.archs, "ptx": self.ptx}


def read(fields: dict[str, Any]) -> Manifest:
    """The manifest of its JSON form; raises KeyError, TypeError or ValueError where that is none."""
    def items(kind: Any, name: str) -> tuple[Any, ...]:
        return tuple(kind(**{**item, "shape": tuple(item["shape"])}) for item in fields[name])

    return Manifest(**{
        **fields,
        "threads": int(fields["threads"]),
        "features": tuple(fields["features"]),
        "inputs": items(TensorSpec, "inputs"),
        "outputs": items(TensorSpec, "outputs"),
        "constants": items(Constant, "constants"),
        "stored": tuple(map(from_json, fields["stored"])),
        "objects": tuple(map(int, fields["objects"])),
        "archs": tuple(fields.get("archs", cuda_archs(fields["target"]))),
        "ptx": tuple(map(int, fields.get("ptx", ()))),
        "parts": int(fields.get("parts", 1)),
    })


def check(manifest: Manifest, library: int, weights: int) -> None:
    """Check that a manifest is consistent in itself and with the bytes of the library and of the weights.

    Raises:
        ValueError: it is not; says what is wrong.

    """
    _check_types(manifest)
    for index, constant in enumerate(manifest.constants):
        require(_fits(constant, weights), f"constant {index} does not fit the weights")
    packed = [number for number, constant in enumerate(manifest.constants) if constant.encoding == PACKED]
    for each in manifest.stored:
        require(fits(each, packed, weights), "a stored weight does not fit the weights")
    sizes = manifest.objects
    require(not sizes or (min(sizes) > 0 and sum(sizes) == library), "the object files are not the library")


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - a condition is what an assertion takes
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _check_types(manifest: Manifest) -> None:
    """Raises ValueError where names are no texts, or a tensor is none of plain numbers."""
    texts = (manifest.sparsec, manifest.tvm, manifest.platform, manifest.target, manifest.entry, *manifest.features)
    require(all(isinstance(text, str) for text in texts) and manifest.threads > 0, "a name or number is none")
    require(all(re.fullmatch(r"sm_\d+a?", arch) for arch in manifest.archs), "an architecture is none")
    for spec in (*manifest.inputs, *manifest.outputs):
        named = isinstance(spec.name, str) and isinstance(spec.dtype, str) and spec.dtype not in ("O", "object")
        least = UNKNOWN if manifest.entry == STAGES else 0
        require(named and all(isinstance(size, int) and size >= least for size in spec.shape),
                 f"'{spec.name}' is no tensor")
        require(manifest.parts == 1 or (manifest.parts > 1 and len(spec.shape) > 0
                                        and spec.shape[0] % manifest.parts == 0),
                f"the rows of '{spec.name}' do not divide into {manifest.parts} parts")


def _fits(constant: Constant, size: int) -> bool:
    """Whether a constant lies aligned within `size` bytes and, where stored raw, has the length of its shape."""
    dtype = np.dtype(constant.dtype)
    end = constant.offset + constant.nbytes
    inside = 0 <= constant.offset <= end <= size and constant.offset % ALIGNMENT == 0
    plain = (dtype.kind in "biuf" or dtype == ml_dtypes.bfloat16) and min(constant.shape, default=0) >= 0
    exact = constant.encoding != "raw" or math.prod(constant.shape) * dtype.itemsize == constant.nbytes
    return inside and plain and exact and constant.encoding in (*DECODERS, PACKED)
