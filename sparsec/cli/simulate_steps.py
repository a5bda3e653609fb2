"""The steps of `sparsec simulate`: from a file to figures, sweeps, plots, pages and traces."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparsec import files
from sparsec.artifact.file import Artifact, is_artifact
from sparsec.backends.accelerators.eie import benchmarks, events, program
from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS, Accelerator
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.inference import infer
from sparsec.backends.accelerators.eie.layer import Layer
from sparsec.backends.accelerators.eie.network import Network, compile_network
from sparsec.backends.accelerators.eie.simulate import FIXED, Active, simulate
from sparsec.backends.accelerators.eie.simulate import sweep as simulate_sweep
from sparsec.backends.accelerators.execution import Watch
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import prepare
from sparsec.errors import SimulationError, UsageError, meant
from sparsec.graph.compare import Feeds, random_feeds, run_onnxruntime
from sparsec.report import eie as report
from sparsec.report.eie_html import render
from sparsec.report.eie_plots import plot_layers, plot_sweep
from sparsec.report.eie_trace import chrome_trace
from sparsec.report.figures import save

PAPER_SEED = 0


@dataclass(frozen=True)
class Subject:
    """What was simulated, with its figures."""

    title: str
    layers: Mapping[str, Layer]
    active: Active
    accelerator: Accelerator
    arch: Architecture
    figures: report.Figures


def _accelerator(target: str) -> Accelerator:
    if target not in ACCELERATORS:
        raise UsageError(f"'{target}' cannot be simulated; {meant(target, ACCELERATORS)}choose from "
                         f"{', '.join(ACCELERATORS)}")
    return ACCELERATORS[target]


def simulate_paper(target: str, parameters: Mapping[str, int], watch: Watch) -> Subject:
    """The nine layers of the paper with random masks."""
    accelerator, arch = _accelerator(target), Architecture(**parameters)
    layers, active = benchmarks.random_layers(PAPER_SEED)
    results = simulate(layers, active, accelerator, arch, watch)
    figures = {**report.describe_benchmarks(list(zip(benchmarks.BENCHMARKS, results, strict=True)), arch),
               "area_mm2": accelerator.area_mm2(arch), "power_mw": accelerator.power_mw(arch)}
    return Subject("The paper's layers", layers, active, accelerator, arch, figures)


def simulate_file(file: Path, target: str, parameters: Mapping[str, int], codebook: str, chosen: CompileOptions,
                  feeds: Feeds | None, watch: Watch, *, beside_cpu: bool) -> Subject:
    """An ONNX model or an artifact, on inputs or on random ones."""
    accelerator = _accelerator(target)
    compiled = is_artifact(file)
    if compiled and beside_cpu:
        raise UsageError(f"the CPU cannot run {file}; give the ONNX model")
    if compiled:
        network, arch = _open_artifact(file, parameters)
        if chosen.shapes or chosen.dims:
            raise UsageError(f"{file} was compiled for fixed shapes; leave --shape and --dim out, or give the ONNX "
                             "model")
        feeds = feeds or random_feeds(network.model)
        reference = None
    else:
        arch = Architecture(**parameters)
        prepared = prepare(file, chosen)
        model, (generated,) = prepared.graph, prepared.job.generated
        feeds = feeds or generated
        names = [str(value.name) for value in model.graph.outputs]
        reference = dict(zip(names, run_onnxruntime(file, feeds), strict=True))
        network = compile_network(model, feeds, arch, codebook, watch)
    if not network.layers:
        raise SimulationError(f"{file} has no layer that the accelerator takes: those have a constant weight (MatMul, "
                              "Gemm, Conv); give a model with some, or --target eie,ese for recurrent layers")
    inference = infer(network, feeds, accelerator, arch, reference, watch)
    beside = time_on_cpu(file, chosen, feeds) if beside_cpu else {}
    figures = report.describe_inference(inference, beside)
    return Subject(file.stem, network.layers, inference.active, accelerator, arch, figures)


def _open_artifact(file: Path, parameters: Mapping[str, int]) -> tuple[Network, Architecture]:
    artifact = Artifact.load(file)
    if artifact.manifest.entry != program.ENTRY:
        raise UsageError(f"{file} was compiled for '{artifact.manifest.target}'; give the ONNX model, or compile it "
                         "with --target eie")
    network, arch = program.unpack(artifact.constants())
    for name in FIXED:
        if parameters.get(name, getattr(arch, name)) != getattr(arch, name):
            raise UsageError(f"{file} has {name} = {getattr(arch, name)}; give the ONNX model to change it")
    return network, replace(arch, **parameters)


def time_on_cpu(file: Path, chosen: CompileOptions, feeds: Feeds) -> dict[str, float]:
    """Milliseconds of an inference by one thread of this CPU, by engine."""
    from sparsec.bench.latency import measure
    from sparsec.compiler.compile import compile_model

    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        artifact = Path(directory) / "model.sparsec"
        compile_model(file, replace(chosen, target="cpu")).save(artifact)
        latencies = measure({"sparsec": str(artifact), "onnxruntime": str(file)}, feeds)
    return {f"{each.engine}, 1 CPU thread": each.summary.p50_us / 1e3 for each in latencies}


def sweep(subject: Subject, parameter: str, values: Sequence[int], watch: Watch) -> report.Figures:
    """The figures of a sweep."""
    results = simulate_sweep(subject.layers, subject.active, subject.accelerator, subject.arch, parameter, values,
                             watch)
    return report.describe_sweep(parameter, results)


def write_plots(path: Path | None, figures: report.Figures, sweeps: Sequence[report.Figures]) -> None:
    """The layers, or every sweep: to `path`, or beside it with the parameter in the name where there are several."""
    if path is None:
        return
    if not sweeps:
        save(plot_layers(figures), path)
    for each in sweeps:
        named = path if len(sweeps) == 1 else path.with_stem(f"{path.stem}-{each['parameter']}")
        save(plot_sweep(each), named)


def write_html(path: Path | None, subject: Subject, sweeps: Sequence[report.Figures]) -> None:
    """The page, where one is asked for."""
    if path is not None:
        files.write(path, render(subject.figures, sweeps, subject.title).encode())


def write_trace(path: Path | None, subject: Subject, layer: str | None) -> None:
    """The events of one layer's first product, by the event model, where they are asked for.

    Raises:
        UsageError: no such layer.

    """
    if path is None:
        return
    slowest = max(subject.figures["layers"], key=lambda each: float(each["time_us"]))
    name = layer or str(slowest["layer"])
    if name not in subject.layers:
        raise UsageError(f"no layer '{name}' to trace; the layers are {', '.join(subject.layers)}")
    traced, arch = subject.layers[name], subject.arch
    codebook = traced.weight.quantize(traced.codebook)
    activations = subject.active[name][0].astype(np.int32)  # the timing depends on where they are zero only
    segments = subject.accelerator.represent(traced.codes, traced.has_bias, arch, name)
    runs = [events.simulate(segment.stored, codebook, activations[slice(*segment.columns)], arch, 0)
            for segment in segments]
    files.write(path, json.dumps(chrome_trace(runs, arch, name)).encode())
