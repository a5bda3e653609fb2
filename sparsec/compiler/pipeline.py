"""The passes, in order: from a model as exported to the graph that a backend lowers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import onnx_ir as ir

from sparsec.graph.verify import check, infer
from sparsec.graph.writer import save
from sparsec.passes import (
    branches,
    contributed,
    convolutions,
    embeddings,
    foreign,
    fuse_activation,
    fuse_attention,
    fuse_epilogue,
    fuse_norm,
    integers,
    layout,
    lift,
    optimize,
    parallel,
    products,
    quantized,
    recurrent,
    scale_concat,
    spell_pads,
    strip,
    turn,
    unflatten,
    weigh,
    widen,
)
from sparsec.passes.context import Context, Report


class Phase(Enum):
    """Whether a pass leaves ONNX's operators, for any number of rows, or makes sparsec's, for these shapes."""

    SIMPLIFY = "simplify"
    SPECIALISE = "specialise"


@dataclass(frozen=True)
class Pass:
    """An entry of the pipeline, that later ones rely on where it is `needed`; batches divide between the two phases."""

    run: Callable[[ir.Model, Context], Report]
    phase: Phase = Phase.SPECIALISE
    needed: bool = False

    @property
    def name(self) -> str:
        """The pass's, that of its module."""
        return self.run.__module__.rsplit(".", 1)[-1]


PASSES: list[Pass] = [
    Pass(branches.run, Phase.SIMPLIFY, needed=True),
    Pass(spell_pads.run, Phase.SIMPLIFY, needed=True),
    Pass(widen.run, Phase.SIMPLIFY, needed=True),
    Pass(quantized.run, Phase.SIMPLIFY, needed=True),
    Pass(foreign.run, Phase.SIMPLIFY, needed=True),
    Pass(contributed.run, Phase.SIMPLIFY, needed=True),
    Pass(optimize.run, Phase.SIMPLIFY),
    Pass(parallel.run, Phase.SIMPLIFY),
    Pass(products.run, Phase.SIMPLIFY),
    Pass(strip.run, Phase.SIMPLIFY),
    Pass(integers.run),
    Pass(fuse_norm.run),
    Pass(fuse_activation.run),
    Pass(fuse_attention.run),
    Pass(convolutions.run),
    Pass(recurrent.run),
    Pass(lift.run),
    Pass(unflatten.run),
    Pass(fuse_epilogue.run),
    Pass(scale_concat.run),
    Pass(turn.run),
    Pass(embeddings.run),
    Pass(layout.run, needed=True),
    Pass(weigh.run),
]


def run_passes(model: ir.Model, context: Context, dump_dir: str | Path | None = None,
               phase: Phase | None = None) -> list[Report]:
    """Runs `PASSES` on the model, in place, and checks the graph after each that changed it.

    Args:
        model: as `graph.reader.load` returns it.
        context: what the model is compiled for.
        dump_dir: where to write the graph after each pass, as `NN-name.onnx`; None writes nothing.
        phase: the passes of one phase; all where None.

    Raises:
        ModelError: the graph after a pass is not valid; names the pass.
        OSError: `dump_dir` cannot be written.

    """
    if dump_dir is not None:
        Path(dump_dir).mkdir(parents=True, exist_ok=True)
    reports = []
    for index, each in enumerate(PASSES):
        if phase not in (None, each.phase):
            continue
        if each.name in context.spared.passes:
            continue
        report = each.run(model, context)
        if report.modified:
            where = f"the graph after pass {report.name}"
            infer(model, where)
            check(model, where)
        if dump_dir is not None:
            save(model, Path(dump_dir) / f"{index:02d}-{report.name}.onnx")
        reports.append(report)
    return reports
