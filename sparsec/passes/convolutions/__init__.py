"""Convolutions that no kernel knows become ones of two dimensions: transposed ones, then those of volumes.

Those of one position, and those of patches side by side, become products of rows, and those of taps far apart sums of
smaller ones, as do those of joined images.

What they become is exact: the same products, and zeros where there were none. Activations behind them go in front of
the moves of pixels that are left, where the epilogue of a layer takes them.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report
from sparsec.passes.convolutions import joined, patches, spread, transposed, volumes, whole


def run(model: ir.Model, context: Context) -> Report:
    """Rewrites every convolution it can, in place; none for a target without vectors."""
    counts: Counter[str] = Counter()
    notes: list[Note] = []
    if context.target.lanes:
        for step in (transposed.run, patches.run, volumes.run, whole.run, spread.run, joined.run):
            step(model.graph, context.spared, counts, notes)
    if counts:
        rewrite.clean(model)
    return Report("convolutions", bool(counts), counts, tuple(notes))
