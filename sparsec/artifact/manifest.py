"""The manifest of an artifact: what its program needs and offers, and where its constants lie."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from sparsec.artifact.stored import StoredWeight, check_stored
from sparsec.backends.program import SIZED, STAGES, UNKNOWN, Needs, TensorSpec
from sparsec.backends.registry import backend_named
from sparsec.machine.memory import ALIGNMENT, element_type
from sparsec.target import cuda_archs, is_target


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
        needs: what the target's backend checks before the program is opened; see `Program`.
        parts: the calls of `entry` that make an inference; each takes and returns an equal share of the rows, in order.
        workspace: bytes that the library's functions without a virtual machine need; None where it has none.

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
    needs: Needs = field(default_factory=dict)
    parts: int = 1
    workspace: int | None = None


SCHEMA = 3
"""The version of the file format that is written."""
READABLE = (2, SCHEMA)
"""Those that are read."""


PORTABLE = "portable"
"""What the target of an artifact without native code is called."""

MOST_THREADS = 1024
"""Threads that a program can be compiled for."""

_LARGEST_TENSOR = 1 << 40  # bytes
_DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", "bfloat16", "int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"})
"""ONNX's types of numbers, by numpy's names."""
_TEXTS = {"sparsec": r"[\w.+!-]{1,64}", "tvm": r"[\w.+!-]{1,64}", "platform": r"[\w.-]{1,64}", "entry": r"\w{1,64}"}
"""What texts must look like; ASCII."""


def read(fields: dict[str, Any]) -> Manifest:
    """The manifest of its JSON form.

    Raises:
        ValueError, msgspec.ValidationError: that is none; says which field is wrong.

    """
    if fields.get("schema") == 2:
        fields = _of_schema_2(fields)
    if unknown := set(fields) - {each.name for each in dataclasses.fields(Manifest)}:
        raise ValueError(f"unknown fields {', '.join(sorted(map(repr, unknown)))}")
    return msgspec.convert(fields, Manifest)


def _of_schema_2(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as they are written now; before, they named what programs for GPUs need, or left it to the target."""
    archs = fields.get("archs", cuda_archs(str(fields.get("target"))))
    needs = {"archs": archs, "ptx": fields.get("ptx", ())} if archs else {}
    return {name: value for name, value in fields.items() if name not in ("archs", "ptx")} | {
        "schema": SCHEMA, "needs": needs}


def check(manifest: Manifest, library: int, weights: int, most: int) -> None:
    """Check that a manifest is consistent in itself and with the bytes of the library and of the weights.

    Args:
        manifest: of the right types.
        library: bytes of this member.
        weights: bytes of this member.
        most: bytes of memory that the constants may take.

    Raises:
        ValueError: it is not; says what is wrong.

    """
    _check_texts(manifest)
    require(0 < manifest.threads <= MOST_THREADS, f"{manifest.threads} threads, and there may be 1 to {MOST_THREADS}")
    for spec in (*manifest.inputs, *manifest.outputs):
        _check_tensor(spec, manifest.parts, UNKNOWN if manifest.entry in (SIZED, STAGES) else 0)
    for index, constant in enumerate(manifest.constants):
        require(_fits(constant, weights), f"constant {index} does not fit the weights")
    require(0 <= (manifest.workspace or 0) < _LARGEST_TENSOR, f"a workspace of {manifest.workspace} bytes")
    require(sum(map(_nbytes, manifest.constants)) <= most, f"the constants take over {most} bytes")
    packed = [number for number, constant in enumerate(manifest.constants) if constant.encoding == PACKED]
    for each in manifest.stored:
        check_stored(each, packed, weights, most)
    sizes = manifest.objects
    require(not sizes or (min(sizes) > 0 and sum(sizes) == library), "the object files are not the library")
    require(manifest.target != PORTABLE or not (library or manifest.constants),
            "a portable artifact holds native code or constants")


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - a condition is what an assertion takes
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _check_texts(manifest: Manifest) -> None:
    """Raises ValueError where a name is not one that sparsec writes."""
    for name, pattern in _TEXTS.items():
        text = getattr(manifest, name)
        require(bool(re.fullmatch(pattern, text, re.ASCII)), f"{name} is {text[:64]!r}")
    for feature in manifest.features:
        require(bool(re.fullmatch(r"[a-z0-9_]{1,32}", feature)), f"a processor feature is {feature[:32]!r}")
    require(manifest.target == PORTABLE or is_target(manifest.target),
            f"its target is {manifest.target[:64]!r}, which this version of sparsec does not know")
    wrong = None if manifest.target == PORTABLE else backend_named(manifest.target).reject_needs(manifest.needs)
    require(wrong is None, wrong or "")


def _check_tensor(spec: TensorSpec, parts: int, least: int) -> None:
    """Raises ValueError where an input or output is not an array of numbers, or does not divide into the parts."""
    require(spec.dtype in _DTYPES, f"'{spec.name}' has an unknown element type")
    nbytes = math.prod(spec.shape) * element_type(spec.dtype).itemsize
    require(min(spec.shape, default=0) >= least and nbytes < _LARGEST_TENSOR, f"'{spec.name}' has an impossible shape")
    require(parts == 1 or (parts > 1 and len(spec.shape) > 0 and spec.shape[0] % parts == 0),
            f"the rows of '{spec.name}' do not divide into {parts} parts")


def _nbytes(constant: Constant) -> int:
    """Bytes of the array that a kernel reads."""
    return math.prod(constant.shape) * element_type(constant.dtype).itemsize


def _fits(constant: Constant, size: int) -> bool:
    """Whether a constant lies aligned within `size` bytes and, where stored raw, has the length of its shape."""
    end = constant.offset + constant.nbytes
    inside = 0 <= constant.offset <= end <= size and constant.offset % ALIGNMENT == 0
    plain = constant.dtype in _DTYPES and min(constant.shape, default=0) >= 0
    return inside and plain and constant.encoding in (*DECODERS, PACKED) and (
        constant.encoding != "raw" or _nbytes(constant) == constant.nbytes)
