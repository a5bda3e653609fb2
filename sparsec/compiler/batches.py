"""How many rows of a batch run at once: all of them, or a share, so that activations stay in the caches.

Where rows do not depend on each other (`analysis.batch`), the program for a share runs for every share of the rows.
Shares are compared by the plans that the cost model makes for them; where measuring is allowed, the best is timed
beside a single row, both as whole programs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx_ir as ir

from sparsec.analysis.batch import rows_of, with_rows
from sparsec.artifact.file import Artifact
from sparsec.backends.base import Backend
from sparsec.backends.job import Feeds, Job, silent
from sparsec.backends.layer_report import LayerReport
from sparsec.compiler.pipeline import Phase, run_passes
from sparsec.compiler.planning import plan
from sparsec.cost.option import Option, Work
from sparsec.cost.plan import CHOICE, HOPELESS
from sparsec.cost.residency import nbytes
from sparsec.errors import InputError
from sparsec.graph.compare import split_samples
from sparsec.graph.shapes import static_shape
from sparsec.passes.context import Context
from sparsec.runtime.session import InferenceSession

MOST_SHARES = 6
"""Shares that models are planned for."""
SLACK = 1.05
"""Times the fastest prediction, up to which a smaller share is preferred."""
CALL_S = 3e-6
"""Seconds that a session needs for every share beside the program."""
COPIED_BYTES_PER_S = 2e10
"""Of outputs, which shares are copied into."""
ROUNDS, ROUND_S = 5, 0.05
"""Rounds in which programs are timed, and the seconds that each takes of one at least."""


@dataclass(frozen=True)
class Batch:
    """How the rows of a model run.

    Attributes:
        rows: of an inference.
        share: of these that run at once.
        reason: why it is that many.
        seconds: by share the predicted time of an inference, and the measured one where there is one.

    """

    rows: int
    share: int
    reason: str
    seconds: Mapping[int, tuple[float, float | None]]

    @property
    def parts(self) -> int:
        """How often the program for a share runs."""
        return self.rows // self.share

    def job(self, part: ir.Model, job: Job) -> Job:
        """The job for the model for a share, with inputs for as many rows."""
        def split(feeds: Sequence[Feeds]) -> list[Feeds]:
            return [each for whole in feeds for each in split_samples(part, whole)]

        return replace(job, generated=split(job.generated), real=split(job.real))

    def layers(self, rows: Sequence[LayerReport]) -> tuple[LayerReport, ...]:
        """The report's rows of layers, whose times are those of one share, for an inference."""
        def whole(microseconds: float) -> float:
            return round(self.parts * microseconds, 3)

        return tuple(replace(row, predicted_us=whole(row.predicted_us),
                             measured_us=None if row.measured_us is None else whole(row.measured_us)) for row in rows)

    def to_json(self) -> dict[str, object]:
        """JSON's types for the report."""
        def microseconds(seconds: float | None) -> float | None:
            return None if seconds is None else round(seconds * 1e6, 3)

        return {"rows": self.rows, "share": self.share, "parts": self.parts, "reason": self.reason, "candidates": [
            {"share": share, "predicted_us": microseconds(predicted), "measured_us": microseconds(measured)}
            for share, (predicted, measured) in self.seconds.items()]}


def divide(model: ir.Model, job: Job, context: Context, backend: Backend) -> tuple[ir.Model, Batch | None]:
    """The model for as many rows as run at once, and the decision; None where the first input has but one row.

    Args:
        model: after the passes that simplify.
        job: what to compile it for, with inputs for all rows.
        context: that of the passes.
        backend: the target's, which divides batches.

    """
    rows = next((shape[0] for value in model.graph.inputs if (shape := static_shape(value))), 0)
    if rows <= 1:
        return model, None
    found = rows_of(model.graph)
    if isinstance(found, str):
        return model, Batch(rows, rows, found, {})
    quick = replace(job, log=None, measurer=None, announce=silent)
    plans: dict[int, ir.Model] = {}
    predicted: dict[int, float] = {}
    for index, share in enumerate(candidates := shares(rows)):
        job.announce("rewrite", index / len(candidates))
        part = with_rows(model, share) if share < rows else model.clone()
        if isinstance(part, str):
            return model, Batch(rows, rows, part, {})
        run_passes(part, context, phase=Phase.SPECIALISE)
        plan(part, quick, backend)
        plans[share] = part
        copied = sum(map(nbytes, model.graph.outputs)) / COPIED_BYTES_PER_S if share < rows else 0.0
        predicted[share] = rows // share * (CALL_S + backend.graph_seconds(part.graph, job)) + copied
    measured = _measured(plans, predicted, job, backend) if job.measurer is not None and job.measurer.here else {}
    share = min(measured, key=measured.__getitem__) if measured else _best(predicted)
    reason = "measured to be the fastest" if measured else f"predicted to be the fastest of {len(predicted)} ways"
    batch = Batch(rows, share, reason, {each: (predicted[each], measured.get(each)) for each in predicted})
    part = with_rows(model, share) if share < rows else model
    assert isinstance(part, ir.Model)  # there was one to plan
    return part, batch


def shares(rows: int) -> list[int]:
    """Divisors of the number of rows, from 1 to all, at most `MOST_SHARES` and some factor apart."""
    factor, chosen = rows ** (1 / (MOST_SHARES - 1)), [1]
    for divisor in range(2, rows):
        if rows % divisor == 0 and divisor >= factor * chosen[-1] and rows >= factor * divisor:
            chosen.append(divisor)
    return [*chosen, rows]


def _best(predicted: Mapping[int, float]) -> int:
    """The smallest share that is hardly slower than the fastest.

    Large shares suffer from caches and pages that cores share, of which the model knows nothing: it errs in their
    favour.
    """
    fastest = min(predicted.values())
    return min(share for share, seconds in predicted.items() if seconds <= SLACK * fastest)


def _measured(plans: Mapping[int, ir.Model], predicted: Mapping[int, float], job: Job, backend: Backend,
              ) -> dict[int, float]:
    """Seconds of an inference by the best share, one row and, where that is as good, all; nothing without time left."""
    best = _best(predicted)
    alike = {max(plans)} if predicted[max(plans)] <= SLACK * predicted[best] else set()
    finalists = {share: _as_option(plans[share]) for share in sorted({min(plans), best, *alike})
                 if predicted[share] < HOPELESS * predicted[best]}
    if job.log is None or len(finalists) < 2:
        return {}
    logged = {share: job.log.logged(option, job.target, job.threads) for share, option in finalists.items()}
    known = {share: seconds for share, seconds in logged.items() if seconds is not None}
    if len(known) == len(finalists):
        return known
    if job.log.budget_s <= 0:
        return {}
    runs = [_run(plans[share], max(plans) // share, job, backend) for share in finalists]
    try:
        found = dict(zip(finalists, fastest(runs), strict=True))
    except InputError:  # random inputs may be none that the model takes
        return {}
    for share, option in finalists.items():
        job.log.time(option, job.target, job.threads, partial(_taken, found[share]))
    return found


def _taken(seconds: float, _option: Option) -> float:
    """A time that was taken already, as the tuning log asks for it."""
    return seconds


def _as_option(part: ir.Model) -> Option:
    """A planned model as the tuning log knows kernels: by the parameters of all of them."""
    nodes = []
    nbytes = 0
    for node in part.graph:
        choice = CHOICE.get(node)
        nodes.append((node.op_type, static_shape(node.outputs[0]), choice and choice.winner.option.params))
        nbytes += 0 if choice is None else choice.winner.option.nbytes
    return Option("", "whole model", f"{len(nodes)} nodes", tuple(nodes), nbytes, Work(0, 0))


def _run(part: ir.Model, parts: int, job: Job, backend: Backend) -> Callable[[], object]:
    """An inference by the planned model for a share."""
    plain = replace(job.options, optimize="latency", codec="f32")  # how weights are stored changes no time
    program = backend.build(part, replace(job, options=plain, announce=silent)).program.repeated(parts)
    session = InferenceSession(Artifact.build(program, job.target, job.threads, b"", {}))
    feeds = (*job.real, *job.generated)[0]
    return lambda: session.run(None, feeds)


def fastest(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The shortest seconds of each run, which take turns."""
    seconds = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for index, run in enumerate(runs):
            end = time.perf_counter() + ROUND_S
            while (begin := time.perf_counter()) < end:
                run()
                seconds[index] = min(seconds[index], time.perf_counter() - begin)
    return seconds
