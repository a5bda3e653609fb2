"""What each pattern of zeros would buy a model on a target, by the target's cost model: which pays there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sparsec.compiler.prepare import prepare
from sparsec.errors import UsageError
from sparsec.oneshot import dense
from sparsec.oneshot.costs import mask_of, named
from sparsec.oneshot.dense import Progress
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.patterns.unstructured import Unstructured
from sparsec.report.curves import Curve, curves_of, options_of
from sparsec.target import Target

PATTERNS = ("unstructured", "balanced", "1x4", "4x1", "16x1", "2:4", "1:4")
"""Those that are priced: one of every kind, blocks along both axes and up to a vector of AVX-512."""
SPARSITIES = (0.5, 0.75, 0.9)
"""Of patterns that do not fix theirs."""
PAYS = 0.98
"""The share of the dense time that a pattern must come below."""


NOTABLE = 0.01
"""How much faster than with fewer zeros a model must become to speak of it."""


@dataclass(frozen=True)
class Advice:
    """A pattern on a target.

    Attributes:
        pattern: its name.
        speedups: by sparsity how many times as fast as dense the layers with weights to prune are predicted together.
        layers, of: how many of these layers have a sparse kernel that wins at the highest sparsity, and how many the
            cost model knows.
        formats: what those read, the most frequent first.

    """

    pattern: str
    speedups: Mapping[float, float]
    layers: int
    of: int
    formats: tuple[str, ...]

    @property
    def pays(self) -> bool:
        """Whether any sparsity makes the model faster."""
        return max(self.speedups.values()) > 1 / PAYS


def advise(model: onnx.ModelProto, patterns: Sequence[str], shapes: Mapping[str, Sequence[int]] | None, target: Target,
           threads: int, keep: Sequence[str], progress: Progress) -> tuple[float, list[Advice]]:
    """The predicted microseconds of the dense layers that can be pruned, and what each pattern makes of them.

    Args:
        model: the dense model.
        patterns: by name.
        shapes: of inputs with symbolic dimensions.
        target: what it is to run on.
        threads: of one inference.
        keep: layers that stay dense.
        progress: is told the share that is done.

    Raises:
        PruningError: there is nothing to prune.
        UsageError: the target has no cost model, or none of the layers.

    """
    chosen, _ = dense.weights(model, Unstructured(), keep)
    wanted = {layer.name for weight in chosen for layer in weight.layers}
    prepared = prepare(named(model), options_of(target, threads, shapes))
    found, dense_us = list[Advice](), 0.0
    for number, name in enumerate(patterns):
        progress("cost model", number / len(patterns))
        form = pattern(name)
        levels = (0.0, *(SPARSITIES if form.fixed is None else (form.fixed,)))
        curves = {layer: curve for layer, curve in curves_of(prepared, levels, mask_of(form)).items()
                  if layer in wanted}
        if not curves:
            raise UsageError(f"the cost model of '{target.name}' knows none of the layers that can be pruned")
        times = np.array([[point.best_us for point in curve] for curve in curves.values()]).sum(axis=0)
        dense_us = float(times[0])
        formats = [_format(curve) for curve in curves.values()]
        counts = Counter(filter(None, formats))
        found.append(Advice(name, {level: dense_us / float(time) for level, time in zip(levels[1:], times[1:],
                                                                                       strict=True)},
                            counts.total(), len(curves), tuple(each for each, _ in counts.most_common())))
    return dense_us, found


def _format(curve: Curve) -> str:
    """What a layer reads at the highest sparsity; empty where that is no faster than dense."""
    return curve[-1].best_format if curve[-1].best_us < PAYS * curve[0].best_us else ""


def best(found: Sequence[Advice]) -> dict[float, Advice]:
    """By sparsity the pattern that is predicted to be the fastest, of equals the first; only where more zeros pay."""
    most, before = dict[float, Advice](), 1 / PAYS
    for level in sorted({level for each in found for level in each.speedups}):
        known = {each.pattern: (round(each.speedups[level], 2), each) for each in found if level in each.speedups}
        speedup, winner = max(known.values(), key=lambda pair: pair[0])
        if speedup > before:
            most[level], before = winner, speedup + NOTABLE
    return most
