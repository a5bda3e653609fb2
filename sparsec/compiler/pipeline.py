"""The passes, in order: from a model as exported to the graph that a backend lowers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from sparsec.graph.verify import check, infer
from sparsec.graph.writer import save
from sparsec.passes import (
    fuse_activation,
    fuse_attention,
    fuse_epilogue,
    fuse_norm,
    layout,
    lift,
    optimize,
    products,
    strip,
    turn,
)
from sparsec.passes.context import Context, Report

Pass = Callable[[ir.Model, Context], Report]

SIMPLIFY: list[Pass] = [
    optimize.run,
    products.run,
    strip.run,
]
"""What leaves ONNX's operators, for any number of rows."""

SPECIALISE: list[Pass] = [
    fuse_norm.run,
    fuse_activation.run,
    fuse_attention.run,
    lift.run,
    fuse_epilogue.run,
    turn.run,
    layout.run,
]
"""What turns them into sparsec's, for these shapes."""

PASSES: list[Pass] = [*SIMPLIFY, *SPECIALISE]


def run_passes(model: ir.Model, context: Context, dump_dir: str | Path | None = None,
               passes: Sequence[Pass] | None = None) -> list[Report]:
    """Runs passes on the model, in place, and checks the graph after each.

    Args:
        model: as `graph.reader.load` returns it.
        context: what the model is compiled for.
        dump_dir: where to write the graph after each pass, as `NN-name.onnx`; None writes nothing.
        passes: some of `PASSES`; all where None.

    Raises:
        ModelError: the graph after a pass is not valid; names the pass.
        OSError: `dump_dir` cannot be written.

    """
    if dump_dir is not None:
        Path(dump_dir).mkdir(parents=True, exist_ok=True)
    reports = []
    for run in PASSES if passes is None else passes:
        report = run(model, context)
        where = f"the graph after pass {report.name}"
        infer(model, where)
        check(model, where)
        if dump_dir is not None:
            save(model, Path(dump_dir) / f"{PASSES.index(run):02d}-{report.name}.onnx")
        reports.append(report)
    return reports
