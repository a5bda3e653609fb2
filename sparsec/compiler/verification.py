"""The comparison of an artifact's outputs with a reference's that ends every compilation."""

from __future__ import annotations

import sysconfig
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from sparsec.artifact.file import Artifact
from sparsec.backends.base import Execute
from sparsec.backends.job import Feeds
from sparsec.compiler.pipeline import run_passes
from sparsec.compiler.report import Skipped, Verification
from sparsec.errors import InputError, VerificationError, counted
from sparsec.graph import reader
from sparsec.graph.classes import class_outputs
from sparsec.graph.large import streams
from sparsec.graph.nodes import operator_of
from sparsec.graph.references import Comparison, Model, compare_with_references, own_spread, runs_of, takes
from sparsec.graph.steps import Steps, compare_steps, has_integers
from sparsec.passes.context import Context
from sparsec.passes.contributed import restate
from sparsec.passes.spell_pads import spell
from sparsec.passes.widen import ROUNDINGS, widen
from sparsec.target import Target, machine_features

CODEC_ERRORS = {"f32": 0.0, "f16": 2e-2, "bf16": 2e-2, "int8": 5e-2, "int4": 0.25, "seed": 0.0}
"""The largest error of an output that storing weights in fewer bits may cause."""


def tolerance(error: float, codec: str) -> float | None:
    """The largest error of an output, given that of its precision.

    None where weights are shared, so that the error says nothing about the program.
    """
    return None if codec not in CODEC_ERRORS else max(error, CODEC_ERRORS[codec])


QUANTIZED_ERROR = 5e-2
"""The largest error of an output of a quantised model, where steps of rounding in between are checked by themselves."""
SATURATED = 1e-6
"""How near 0 and 1 the probabilities of a softmax are that shows nothing of what is before it."""
SPREADS = 2
"""Times the distance of the reference's own answers that outputs may err by."""
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear")
"""Operators that round to codes, beside those on integers."""
HALF_ERRORS = {ir.DataType.FLOAT16: 1e-3, ir.DataType.BFLOAT16: 8e-3}
"""The largest error that rounding an output to 16 bits may cause: one unit in the last place."""


LARGEST_WHOLE = 1 << 30
"""Bytes of weights up to which references hold a model in memory whole; they take up to three times as much."""


@dataclass(frozen=True)
class Basis:
    """What the outputs of a model are judged by.

    Attributes:
        source: the model that references execute: the one given, or that with its 16-bit floats widened to float32, the
            padding of dilated windows spelled out, and recurrent layers written out that nobody runs; a graph where it
            is too large to be held in memory, and is executed node by node.
        half: the types of its inputs and outputs where these are 16-bit floats, by name.
        graph: after all passes but strip, where it has operators on integers, to be compared step by step.
        rounds: some operator of the graph rounds to codes or to 16 bits, so that outputs may differ by what that makes
            of an ulp.
        classes: the outputs that are scores of classes (`graph.classes`).

    """

    source: Model | ir.Model
    half: Mapping[str, ir.DataType] = field(default_factory=dict)
    graph: ir.Model | None = None
    rounds: bool = False
    classes: frozenset[str] = frozenset()

    def tolerance(self, limit: float | None) -> float | None:
        """The largest error of an output, given that of the precision that the model is compiled for."""
        if limit is None:
            return None
        halves = max((HALF_ERRORS[each] for each in self.half.values()), default=0.0)
        return max(limit, QUANTIZED_ERROR if self.rounds else 0.0) + halves

    def feeds(self, feeds: Feeds) -> Feeds:
        """Inputs as the source takes them."""
        return {name: array.astype(np.float32) if name in self.half else array for name, array in feeds.items()}


def basis_of(model: Model, graph: ir.Model, shapes: Mapping[str, Sequence[int]], target: Target, *,
             restated: bool, dims: Mapping[str, int] | None = None) -> Basis:
    """What a model is judged by, from the model, its graph after all passes, and whether these restate what it says."""
    tensors = [value.const_value for value in graph.graph.initializers.values() if value.const_value is not None]
    by_nodes = streams(graph.graph) and sum(tensor.nbytes for tensor in tensors) > LARGEST_WHOLE
    compared, integers = None, has_integers(graph)
    rounds = integers or any(operator_of(node) in ROUNDING for node in graph.graph.all_nodes())
    if integers and not by_nodes:
        compared = reader.load(model, shapes=shapes, dims=dims)
        run_passes(compared, Context(target, strict_ieee=True))  # so nothing is stripped: tensors keep their shapes
    classes = class_outputs(model)
    if not restated and not by_nodes:
        return Basis(model, graph=compared, rounds=rounds, classes=classes)
    given = reader.load(model, shapes=shapes, dims=dims, symbolic=True)
    half = {value.name or "": value.dtype for value in (*given.graph.inputs, *given.graph.outputs)
            if value.dtype in HALF_ERRORS and value.dtype is not None}
    spell(given)
    restate(given)
    rounds |= bool(widen(given)[ROUNDINGS])
    return Basis(given if by_nodes else ir.to_proto(given), half, compared, rounds, classes)


def verify(basis: Basis, artifact: Artifact, execute: Callable[[], Execute], random: Sequence[Feeds],
           real: Sequence[Feeds], limit: float | None, *, strict: bool = True) -> Verification | Skipped:
    """Compare an artifact's outputs with a reference's on random and, where `strict` without fail, on real inputs.

    Models of 16-bit floats are judged by their float32 evaluation. Of quantised models, every operator on integers is
    compared with the file's tensors first.

    Returns:
        The errors, or why there was nothing to compare: random inputs need not be any that the model takes.

    Raises:
        InputError: the model does not take the real inputs.
        VerificationError: an output errs by more than the limit, or no reference takes the real inputs.

    """
    if artifact.manifest.platform != sysconfig.get_platform():
        return Skipped(f"it is for {artifact.manifest.platform} and this is {sysconfig.get_platform()}")
    if missing := sorted(set(artifact.manifest.features) - machine_features()):
        return Skipped(f"this machine lacks {', '.join(missing)}")
    limit = basis.tolerance(limit)
    steps = _steps(basis, (*random, *real)[0], refuse=limit is not None)
    answer, names = execute(), [spec.name for spec in artifact.manifest.outputs]
    compared: list[Comparison] = []
    runs = runs_of(basis.source)
    reason, refused, doubts, given = "", "", list[str](), 0
    for each, is_real in [*((each, False) for each in random), *((each, True) for each in real)]:
        try:
            outputs = answer(each)
            doubts.append(_doubt(outputs))
            comparison = compare_with_references(runs, basis.feeds(each), outputs, names, limit)
        except InputError as error:
            if is_real:
                raise
            comparison = str(error)
            refused = refused or (comparison if takes(runs, basis.feeds(each)) else "")
        if isinstance(comparison, Comparison):
            compared.append(with_spread(comparison, basis, each, limit))
            given += is_real
        elif is_real and strict:
            raise VerificationError(f"there is nothing to compare the outputs for the given inputs with: {comparison}; "
                                    "compile with verify=False to accept that")
        else:
            reason = comparison
    if compared:
        _warn(refused, doubts)
    if not compared:
        return Skipped(f"{reason}; give inputs that the model takes (--inputs) to compare on those")
    return replace(_summary(names, compared, limit, basis.classes), steps=steps, widened=bool(basis.half),
                   real=given)


def _warn(refused: str, doubts: Sequence[str]) -> None:
    """Say what a comparison leaves open: inputs that only a reference takes (and why), outputs that hardly tell."""
    if refused:
        warnings.warn(f"the artifact refuses random inputs that a reference takes: {refused}; it is compared on "
                      "others, give real inputs (--inputs) to compare on those", stacklevel=3)
    if all(doubts):
        warnings.warn(f"all outputs are {doubts[0]} for the inputs that were tried, which proves little; give real "
                      "inputs to compare on", stacklevel=3)


def _doubt(outputs: Sequence[np.ndarray]) -> str:
    """What outputs are that hardly show an error; empty where they show one."""
    numbers = [np.asarray(array, np.float64) for array in outputs if array.size]
    if numbers and not any(np.isfinite(array).any() for array in numbers):
        return "NaN or infinite"
    return "0 or 1 to six digits, as a saturated softmax's are," if _saturated(outputs) else ""


def _saturated(outputs: Sequence[np.ndarray]) -> bool:
    """Whether all outputs are probabilities of which one is next to 1 and the rest next to 0."""
    return all(array.dtype.kind == "f" and array.ndim > 1 and array.shape[-1] > 1 and array.size
               and np.abs(array - np.rint(array)).max() < SATURATED and np.abs(array.sum(axis=-1) - 1).max() < SATURATED
               and array.min() > -SATURATED for array in outputs)


def with_spread(comparison: Comparison, basis: Basis, feeds: Feeds, limit: float | None) -> Comparison:
    """The comparison; with onnxruntime's own spread where a model that rounds to codes errs by more than the limit.

    An ulp before a step of rounding can be a step behind it, and grows from layer to layer: nobody has the one answer.
    Of a few answers the largest distance is not the largest there is, so that it counts twice.
    """
    if not basis.rounds or limit is None or comparison.error <= limit or isinstance(basis.source, ir.Model):
        return comparison
    return replace(comparison, spread=SPREADS * own_spread(basis.source, basis.feeds(feeds)))


def _steps(basis: Basis, feeds: Feeds, *, refuse: bool) -> Steps | str | None:
    """The comparison of operators on integers; a VerificationError where one is further off than a step."""
    if basis.graph is None:
        return None
    assert not isinstance(basis.source, ir.Model)  # then there is no graph to compare with
    steps = compare_steps(basis.source, basis.graph, basis.feeds(feeds))
    if isinstance(steps, Steps) and steps.further and refuse:
        name, worst = max(steps.further.items(), key=lambda item: item[1])
        raise VerificationError(f"{counted(len(steps.further), 'quantised tensor')} differ from what onnxruntime "
                                f"computes from the same inputs, '{name}' by {worst:g}; report a defect, or compile "
                                "with verify=False")
    return steps


def _summary(names: Sequence[str], compared: Sequence[Comparison], limit: float | None,
             classes: frozenset[str]) -> Verification:
    """What the report says of the comparisons."""
    errors = {name: max(each.differences[index].relative_error for each in compared)
              for index, name in enumerate(names)}
    reference = " and ".join(dict.fromkeys(each.reference for each in compared))
    spread = max(each.spread for each in compared)
    limit = limit and max(limit, spread)
    if limit is not None and (wrong := [f"'{name}' by {e:.2g}" for name, e in errors.items() if e > limit]):
        raise VerificationError(f"outputs differ from those of {reference} by more than {limit:.0e} of their "
                                f"largest magnitude: {', '.join(wrong)}; compile with more precision or a larger "
                                "max_error, and report a defect if float32 is that far off")
    same = {name: [share for each in compared if (share := each.differences[index].same_class) is not None]
            for index, name in enumerate(names) if name in classes}
    return Verification(reference, len(compared), limit, errors,
                        {name: float(np.mean(shares)) for name, shares in same.items() if shares}, spread=spread,
                        refused="; ".join(dict.fromkeys(each.refused for each in compared if each.refused)))
