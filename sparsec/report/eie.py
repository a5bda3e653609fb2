"""The figures of a simulated inference and of a sweep, units in their names: what tables, plots and files show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.benchmarks import Benchmark
from sparsec.backends.accelerators.eie.inference import Inference
from sparsec.backends.accelerators.eie.simulate import LayerResult, total

Figures = dict[str, Any]

CAUSES = {"macs": "multiplying weights", "padding": "padding entries", "empty": "columns without entries",
          "starved": "queue empty", "tail": "waiting for the slowest PE", "drain": "draining the pipeline",
          "transfer": "moving activations"}
"""What PE-cycles go to."""


def describe_inference(inference: Inference, beside: Mapping[str, float]) -> Figures:
    """An inference; `beside` are the milliseconds that it takes elsewhere, by engine."""
    return {
        **describe_layers(inference.layers, inference.arch),
        "area_mm2": inference.area_mm2, "power_mw": inference.power_mw,
        "host": [asdict(node) for node in inference.host], "host_share_of_flops": inference.host_flops,
        "saturated": inference.saturated, "accuracy": [asdict(each) for each in inference.accuracy],
        "beside_ms": dict(beside),
    }  # fmt: skip


def describe_layers(layers: Sequence[LayerResult], arch: Architecture) -> Figures:
    """Every layer of a configuration and their sum."""
    return {"architecture": asdict(arch), "peak_gops": arch.peak_gops,
            "layers": [describe_layer(layer) for layer in layers], "total": describe_layer(total(layers, arch))}


def describe_layer(result: LayerResult) -> Figures:
    """The figures of one layer, by the names that tables and JSON give them."""
    activity, storage, pes = result.activity, result.storage, result.arch.pes
    by_model = {name: {unit: pj * 1e-6 for unit, pj in units.items()} for name, units in result.energy_pj.items()}
    first, *_, last = (sum(units.values()) for units in (*by_model.values(), *by_model.values()))
    spent = {cause: getattr(activity, cause) for cause in CAUSES} | {"transfer": pes * activity.transfer}
    return {
        "layer": result.name, "kind": result.kind, "shape": result.shape, "vectors": result.vectors,
        "weights_kept": storage.kept / max(1, storage.weights),
        "activations_kept": activity.broadcasts / max(1, result.inputs),
        "cycles": activity.cycles, "time_us": result.time_us, "theory_us": result.theory_us,
        "load_balance": result.balance, "utilisation": result.utilisation,
        "share_of_pe_cycles": {cause: cycles / max(1, pes * activity.cycles) for cause, cycles in spent.items()},
        "gops": result.gops, "dense_gops": result.dense_gops, "dense_macs": result.dense_macs,
        "frames_per_s": 1e6 / max(result.time_us, 1e-9), "frames_per_j": 1e6 / max(result.energy_uj, 1e-9),
        "energy_uj": result.energy_uj, "energy_uj_by_unit": by_model,
        "energy_models_difference": last / first - 1 if first else 0.0,
        "segments": storage.segments, "entries": storage.entries, "padding": storage.padding,
        "stored_bytes": storage.nbytes, "offchip_bytes": result.offchip_bytes, "offchip_uj": result.offchip_uj,
        "counters": asdict(activity),
    }  # fmt: skip


def describe_benchmarks(results: Sequence[tuple[Benchmark, LayerResult]], arch: Architecture) -> Figures:
    """The paper's nine layers with its times beside the simulated ones."""
    figures = describe_layers([result for _, result in results], arch)
    for layer, (benchmark, result) in zip(figures["layers"], results, strict=True):
        layer["paper"] = {
            "theory_us": benchmark.theory_us, "actual_us": benchmark.actual_us,
            "theory_difference": result.theory_us / benchmark.theory_us - 1,
            "actual_difference": result.time_us / benchmark.actual_us - 1,
        }  # fmt: skip
    return figures


def describe_sweep(parameter: str, results: Mapping[int, Sequence[LayerResult]]) -> Figures:
    """A sweep of one parameter; `results` holds every layer by the parameter's value."""
    points = [{"value": value, **describe_layers(layers, layers[0].arch)} for value, layers in results.items()]
    return {"parameter": parameter, "points": points}
