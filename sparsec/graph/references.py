"""What the outputs of a model should be: by onnxruntime, or by ONNX's own reference implementation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from sparsec.graph import control, ort
from sparsec.graph.compare import Difference, Feeds, compare, relative_error, run_onnxruntime
from sparsec.graph.evaluate import run_by_nodes

Model = str | Path | bytes | onnx.ModelProto

NUDGES = 2
"""Models with moved constants that tell how far answers may be apart."""
HALF = 0.5
LARGEST = 1 << 22  # bytes of a model and its inputs that the reference implementation, which loops in Python, is given


@dataclass(frozen=True)
class Comparison:
    """How far outputs are from those of a reference.

    Attributes:
        reference: its name.
        differences: the difference of each output, in order.
        spread: how far the reference's own answers are apart, where that had to be asked.
        refused: why references that come before it have no answer or another one; empty where none does.

    """

    reference: str
    differences: tuple[Difference, ...]
    spread: float = 0.0
    refused: str = ""

    @property
    def error(self) -> float:
        """The largest relative error of an output."""
        return max((each.relative_error for each in self.differences), default=0.0)


def run_onnx(source: Model, feeds: Feeds) -> list[np.ndarray]:
    """The outputs of the model in ONNX's reference implementation.

    Raises:
        ValueError: the model is too large for it.

    """
    from onnx.reference import ReferenceEvaluator

    proto = source if isinstance(source, onnx.ModelProto) else (
        onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source))
    if proto.ByteSize() + sum(array.nbytes for array in feeds.values()) > LARGEST:
        raise ValueError(f"the model and its inputs take over {LARGEST} bytes")
    evaluator = ReferenceEvaluator(proto, new_ops=control.OPERATORS)
    return [np.asarray(output) for output in evaluator.run(None, dict(feeds))]


def run_unoptimised(source: Model, feeds: Feeds) -> list[np.ndarray]:
    """The outputs of the model in onnxruntime, operator by operator as the file has them."""
    return list(ort.session(source, optimized=False).run(None, dict(feeds)))


def own_spread(source: Model, feeds: Feeds) -> float:
    """How far onnxruntime's answers are apart, by the worst output.

    With its optimisations and without, and with float constants that are moved by a unit in the last place.
    """
    proto = source if isinstance(source, onnx.ModelProto) else (
        onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source))
    variants = [(source, False), *((_nudged(proto, seed), True) for seed in range(NUDGES))]
    answer = list(ort.session(source).run(None, dict(feeds)))
    return max((relative_error(a, b) for model, optimized in variants for a, b in zip(
        ort.session(model, optimized=optimized).run(None, dict(feeds)), answer, strict=True)
                if b.dtype.kind == "f"), default=0.0)


def _nudged(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with every float constant of several elements a unit in the last place higher or lower."""
    rng, copy = np.random.default_rng(seed), onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            towards = np.where(rng.random(array.shape) < HALF, np.float32(-np.inf), np.float32(np.inf))
            tensor.CopyFrom(numpy_helper.from_array(np.where(array == 0, array, np.nextafter(array, towards)),
                                                    tensor.name))
    return copy


OWN_OPTIMISATIONS = "onnxruntime without its optimisations"
REFERENCES: dict[str, Callable[[Model, Feeds], list[np.ndarray]]] = {
    "onnxruntime": run_onnxruntime,
    # which multiplies weights behind DequantizeLinear by activations of 8 bits, up to 1 % off, where it optimises
    OWN_OPTIMISATIONS: run_unoptimised,
    "ONNX's reference implementation": run_onnx,  # knows newer opsets, and decides where onnxruntime deviates from ONNX
}
"""By the name that reports use, in order of preference."""

BY_NODES = "onnxruntime, node by node"
"""The reference of models too large to be held in memory."""


Runs = Mapping[str, Callable[[Feeds], list[np.ndarray]]]
"""What the references compute, by their names in order of preference."""


def runs_of(source: Model | ir.Model) -> Runs:
    """The references of a model; a graph is executed node by node, in the memory that one node takes."""
    if isinstance(source, ir.Model):
        return {BY_NODES: partial(run_by_nodes, source)}
    session = functools.cache(partial(ort.session, source))  # opened for the first inputs, and serves the others
    return {name: partial(run, source) for name, run in REFERENCES.items()} | {
        "onnxruntime": lambda feeds: list(session().run(None, dict(feeds)))}


def takes(runs: Runs, feeds: Feeds) -> bool:
    """Whether some reference runs a model on these inputs."""
    for run in runs.values():
        try:
            run(feeds)
        except Exception:  # noqa: BLE001, S112 - what references raise has no common base
            continue
        return True
    return False


def compare_with_references(runs: Runs, feeds: Feeds, outputs: Sequence[np.ndarray], names: Sequence[str],
                            tolerance: float | None) -> Comparison | str:
    """The comparison of outputs with the first reference that agrees within the tolerance, else with the first at all.

    Integers, vectors and scalars may decide shapes: where there are some and a reference's outputs have other shapes
    than the model declares, the inputs are none that the model takes.

    Returns:
        Why there is nothing to compare with, where no reference can run the model on these inputs.

    """
    first, reasons = None, []
    steered = any(array.dtype.kind != "f" or array.ndim < 2 for array in feeds.values())
    for reference, run in runs.items():
        try:
            expected = run(feeds)
        except Exception as error:  # noqa: BLE001 - what references raise has no common base
            reasons.append(f"{reference} cannot run the model: {' '.join(str(error).split())}")
            continue
        if steered and any(np.shape(e) != np.shape(a) for e, a in zip(expected, outputs, strict=True)):
            reasons.append(f"{reference} computes outputs of other shapes than the model declares")
            continue
        comparison = Comparison(reference, compare(names, outputs, expected), refused="; ".join(reasons))
        if tolerance is None or comparison.error <= tolerance:
            return comparison if first is None or reference == OWN_OPTIMISATIONS else replace(
                comparison, refused="; ".join((*reasons, f"{first.reference} differs from it by {first.error:.2g}")))
        first = first or comparison
    return first or "; ".join(reasons)
