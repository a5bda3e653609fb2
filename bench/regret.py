"""How far kernels that the cost model or measuring chose are from the fastest measured one, and from dense.

    python bench/regret.py MODEL… [--log FILE] [--under COMMAND]
    python bench/regret.py MODEL… --grid [--rows 1 16 49 196 784] [--sparsity 0.5 0.8 0.9 0.95] …

The first form times the layers of ONNX models as they are; the second makes every distinct layer shape of the models
anew, with zeros at random places and as many rows (of a linear layer) or output pixels (of a convolution). The log
keeps the time of every kernel, so that a run may be stopped at any time, and choices that other rates or a changed
model make are judged without timing again what was timed. Kernels are compiled in batches, and then timed in rounds
while COMMAND runs, such as one that keeps a machine quiet: it is given a command of its own to run.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from sparsec.bench.formats import Form, Layer, linear_layer, regret
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import Prepared, prepare
from sparsec.cost.option import Option
from sparsec.cost.plan import Candidate, Choice, best_by_format, choose, hopeless
from sparsec.cost.roofline import Rates
from sparsec.graph import reader
from sparsec.graph.constants import constant

OPTIONS = CompileOptions("cpu", tune="off")
TRIALS, MORE = 6, 4  # families and kernels of each that measuring may choose among
STRANGERS, NEAR = 4, 1.6  # kernels drawn among those within so many times the best prediction
ROUNDS = 3
BATCH = 150  # kernels that are compiled before some are timed
WORST = 12  # layers to show

Row = dict[str, Any]
Times = dict[str, float]  # microseconds by kernel


@dataclass(frozen=True)
class Case:
    """A layer to be timed; `key` is what the log knows it by."""

    key: dict[str, Any]
    node: ir.Node
    prepared: Prepared

    @property
    def choice(self) -> Choice:
        """What the cost model chooses."""
        job = self.prepared.job
        return choose("", self.prepared.backend.options(self.node, job), machine=job.calibration.machine)

    def prepare(self, option: Option) -> Callable[[], float]:
        """An option compiled, to be timed."""
        return self.prepared.backend.prepare(self.node, option, self.prepared.job)


@dataclass(frozen=True)
class Shape:
    """A layer's geometry; a kernel of 0 pixels is a linear layer."""

    outputs: int
    inputs: int
    kernel: int = 0
    stride: int = 1

    def __str__(self) -> str:
        """Such as "512x256 3x3/2"."""
        side = f" {self.kernel}x{self.kernel}/{self.stride}" if self.kernel else ""
        return f"{self.outputs}x{self.inputs}{side}"


def main() -> None:
    """Time what the log lacks, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 49, 196, 784])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--log", type=Path, default=Path("regret.jsonl"))
    parser.add_argument("--under", type=shlex.split, default=[], metavar="COMMAND")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long, to go on another time")
    arguments = parser.parse_args()
    end, log = time.monotonic() + arguments.seconds, read(arguments.log)
    cases = grid(arguments) if arguments.grid else layers(arguments.models)
    rows: list[Row] = []
    for batch in batches(cases, log, rows):
        with arguments.log.open("a") as file:
            for job, seconds in zip(batch, timed(batch, arguments.under), strict=True):
                known = log.get(job.name, {})
                known |= {name: min(each, known.get(name, each)) for name, each in seconds.items()}
                file.write(json.dumps({"case": job.case.key, "us": known}) + "\n")
                rows.append(judged(job, known))
        print(f"{len(rows)} layers", file=sys.stderr, flush=True)
        if time.monotonic() > end:
            break
    print(f"rates: {OPTIONS.backend.calibration(OPTIONS.resolved_target, 1).source}")
    report(rows)


def read(path: Path) -> dict[str, Times]:
    """The microseconds of every case's kernels in a log."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {json.dumps(line["case"]): line["us"] for line in lines}


def layers(models: Sequence[Path]) -> Iterator[Case]:
    """The layers of models; of several that are equal but for the places of their zeros, the first."""
    seen = set()
    for path in models:
        prepared = prepare(path, OPTIONS)
        for node in prepared.graph.graph:
            for option in prepared.backend.options(node, prepared.job)[:1]:
                key = {"model": path.stem, "layer": node.name or node.op_type}
                same = (path.stem, repr(option.params), f"{nonzeros(node):.1e}")
                if same not in seen:
                    yield Case(key, node, prepared)
                seen.add(same)


def nonzeros(node: ir.Node) -> int:
    """Non-zeros of a layer's weight."""
    weight = constant(node.inputs[1])
    assert weight is not None  # the backend has options for constant weights only
    return int(np.count_nonzero(weight))


def grid(arguments: argparse.Namespace) -> Iterator[Case]:
    """Every layer shape of the models at every number of rows and sparsity, shuffled: a part of a run is a sample."""
    shapes = dict.fromkeys(shape for path in arguments.models for shape in shapes_of(path))
    places = [(shape, rows) for shape in shapes for rows in arguments.rows]
    for index in np.random.default_rng(0).permutation(len(places)):
        shape, rows = places[index]
        for sparsity in arguments.sparsity:
            key = {"layer": str(shape), "rows": rows, "sparsity": sparsity}
            prepared = prepare(remade(shape, rows, sparsity), OPTIONS)
            yield from (Case(key, node, prepared) for node in prepared.graph.graph
                        if prepared.backend.options(node, prepared.job))


def shapes_of(path: Path) -> Iterator[Shape]:
    """The shapes of a model's weighted layers, but for depthwise convolutions, which have one kernel only."""
    for node in reader.load(path).graph:
        weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if weight is None or weight.ndim < 2:
            continue
        if node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1:
            outputs, inputs, kernel, _ = weight.shape
            yield Shape(outputs, inputs, kernel, node.attributes.get_ints("strides", (1,))[0])
        elif node.op_type == "Gemm" and node.attributes.get_int("transB"):
            yield Shape(*weight.shape)
        elif node.op_type in ("Gemm", "MatMul"):
            yield Shape(*weight.shape[::-1])


def remade(shape: Shape, rows: int, sparsity: float) -> onnx.ModelProto:
    """A model of one layer; a convolution of one pixel has no padding, which would make taps useless."""
    if not shape.kernel:
        return linear_layer(shape.outputs, shape.inputs, rows, sparsity)
    rng = np.random.default_rng(0)
    sizes = (shape.outputs, shape.inputs, shape.kernel, shape.kernel)
    weight = rng.standard_normal(sizes, np.float32) * (rng.random(sizes) >= sparsity)
    side, pad = math.isqrt(rows), 0 if rows == 1 else (shape.kernel - 1) // 2
    width = (side - 1) * shape.stride + shape.kernel - 2 * pad
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, channels, extent, extent))
            for name, channels, extent in (("x", shape.inputs, width), ("y", shape.outputs, side)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", strides=[shape.stride] * 2, pads=[pad] * 4)
    graph = helper.make_graph([node], "conv", [x], [y], [numpy_helper.from_array(weight.astype(np.float32), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass(frozen=True)
class Job:
    """A case with its options by predicted time, those to be timed, and the functions that time them."""

    case: Case
    candidates: list[Candidate]
    machine: Rates
    short: list[Option]
    functions: list[Callable[[], float]]

    @property
    def name(self) -> str:
        """What the log knows the case by."""
        return json.dumps(self.case.key)


def batches(cases: Iterator[Case], log: dict[str, Times], rows: list[Row]) -> Iterator[list[Job]]:
    """The cases that have to be timed; those whose times the log has go to `rows`."""
    batch: list[Job] = []
    for case in cases:
        choice = case.choice
        job = Job(case, [choice.winner, *choice.losers], choice.machine, [], [])
        known = log.get(job.name, {})
        try:
            rows.append(judged(job, known))
            continue
        except KeyError:
            short = shortlist(job.candidates, [each.option for each in best_by_format(choice)])
        batch.append(replace(job, short=short, functions=[case.prepare(each) for each in short]))
        if sum(len(each.short) for each in batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def name_of(option: Option) -> str:
    """What the log knows a kernel by."""
    return f"{option.name} {option.kernel} {option.detail}"


def shortlist(candidates: Sequence[Candidate], formats: Sequence[Option]) -> list[Option]:
    """What measuring could choose, the best of every format, and some others that are not hopeless."""
    families: dict[tuple[str, str], list[Option]] = {}
    limit = max(NEAR * candidates[0].predicted_s, hopeless(candidates[0].predicted_s))
    near = [each.option for each in candidates if each.predicted_s < limit]
    for option in near:
        families.setdefault((option.name, option.kernel), []).append(option)
    likely = [option for members in list(families.values())[:TRIALS] for option in members[:MORE]]
    drawn = np.random.default_rng(0).permutation(len(near))[:STRANGERS]
    return list({id(option): option for option in (*likely, *formats, *(near[i] for i in drawn))}.values())


def timed(batch: Sequence[Job], under: Sequence[str]) -> list[Times]:
    """The shortest times of some cases' kernels, in rounds that go through all of a case."""
    with running(under):
        return [{name_of(option): round(min(times) * 1e6, 3) for option, times in zip(
            job.short, zip(*([f() for f in job.functions] for _ in range(ROUNDS)), strict=True), strict=True)}
            for job in batch]


def judged(job: Job, known: Times) -> Row:
    """The model's choice, what measuring chooses, and the fastest of the kernels that were timed.

    Raises:
        KeyError: a kernel that one of them asks for was not timed.

    """
    options = [each.option for each in job.candidates]
    measured = [replace(each, measured_s=known[name_of(each.option)] / 1e6) for each in job.candidates
                if each is job.candidates[0] or name_of(each.option) in known]
    tuned = choose("", options, measure=lambda option, times=1: known[name_of(option)] / 1e6,  # noqa: ARG005 - all of it
                   trials=TRIALS, machine=job.machine)
    winner = replace(tuned.winner, measured_s=known[name_of(tuned.winner.option)] / 1e6)  # one option is not measured
    return {"case": job.case.key, "nonzeros": nonzeros(job.case.node), "options": len(options),
            "chosen": row(measured[0]), "tuned": row(winner),
            "fastest": row(min(measured, key=lambda each: each.time_s)), "formats": [row(each) for each in measured]}


@contextmanager
def running(command: Sequence[str]) -> Iterator[None]:
    """While a command runs a child that waits for the end of the block; at once without one."""
    if not command:
        yield
        return
    wait = [*command, sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield
        child.communicate("\n")


def row(candidate: Candidate) -> Row:
    """A timed kernel."""
    option = candidate.option
    return {"format": option.name, "runs_as": option.name, "kernel": option.kernel, "detail": option.detail,
            "predicted_us": candidate.predicted_s * 1e6, "measured_us": candidate.measured_us}


def report(rows: Sequence[Row]) -> None:
    """The tables: layers as they are with dense beside them; else by rows and sparsity, the worst layers, the sums."""
    by_place: dict[tuple[int, float], list[Row]] = {}
    for each in rows:
        if "model" in each["case"]:
            print(line(each))
        else:
            by_place.setdefault((each["case"]["rows"], each["case"]["sparsity"]), []).append(each)
    for (count, sparsity), some in sorted(by_place.items()):
        figures = regret([measured(each) for each in some])
        print(f"{count:5} rows, {100 * sparsity:.0f} % zeros: mean {figures.mean:.3f}, worst {figures.worst:.2f}")
    if by_place:
        print("the worst choices:")
        for each in sorted(rows, key=ratio, reverse=True)[:WORST]:
            print(line(each))
    for name, key in (("cost model alone", "chosen"), ("measuring", "tuned")):
        figures = regret([measured(each, key) for each in rows])
        print(f"{name}: {figures.layers} layers, mean {figures.mean:.3f}, worst {figures.worst:.2f}, "
              f"at most {figures.never_slower:.2f}x dense; median prediction error "
              f"{100 * figures.prediction_error:.0f} %")


def measured(each: Row, key: str = "chosen") -> Layer:
    """A row as `regret` counts it, with the choice by the cost model or by measuring."""
    def form(found: Row) -> Form:
        return Form(found["format"], found["kernel"], found["detail"], 0, found["predicted_us"], found["measured_us"],
                    found["runs_as"], None)

    return Layer("", "", (), 0, 0, form(each[key]), form(each["fastest"]), tuple(map(form, each["formats"])))


def ratio(each: Row) -> float:
    """The time of the model's choice over the fastest."""
    return float(each["chosen"]["measured_us"] / each["fastest"]["measured_us"])


def line(each: Row) -> str:
    """One layer: both choices, the fastest kernel and dense."""
    def kernel(key: str) -> str:
        return f"{each[key]['measured_us']:9.1f} {each[key]['format']:>9} {each[key]['kernel']:<12}"

    dense = min(form["measured_us"] for form in each["formats"] if form["format"] == "dense")
    name = " ".join(str(value) for value in each["case"].values())
    return (f"{name:<40} {kernel('chosen')} {kernel('tuned')} {kernel('fastest')} dense {dense:9.1f} "
            f"{ratio(each):5.2f} {each['tuned']['measured_us'] / dense:5.2f}")


if __name__ == "__main__":
    main()
