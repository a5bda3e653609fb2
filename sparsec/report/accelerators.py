"""The figures of a network on several accelerators, units in their names: what tables, pages and files show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsec.backends.accelerators.activity import CAUSES
from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.network import Network
from sparsec.backends.accelerators.simulate import LayerResult, Result
from sparsec.backends.accelerators.table import COLUMNS, row
from sparsec.graph.operators.recurrence import GATES

if TYPE_CHECKING:
    from sparsec.backends.accelerators.headlines import Headline

Figures = dict[str, Any]


def describe(results: Sequence[Result], network: Network, beside: Mapping[str, float]) -> Figures:
    """A network on all of them; `beside` are the milliseconds that it takes elsewhere, by engine."""
    accelerators = [describe_result(result) for result in results]
    return {"accelerators": accelerators, "layers": _suits(accelerators), "beside_ms": dict(beside),
            "host_share_of_flops": network.host_share,
            "host": sorted({_on_host(node.op_type) for node in network.host})}


def _on_host(operator: str) -> str:
    """What the host does of a node: the accelerators multiply by the weights of recurrent layers."""
    return f"gates of {operator}" if operator in GATES else operator


def describe_result(result: Result) -> Figures:
    """A network on one accelerator."""
    accelerator = result.accelerator
    return {"accelerator": accelerator.name, "title": accelerator.title, "configuration": dict(result.config),
            "multipliers": accelerator.lanes(result.config), "area_mm2": accelerator.area_mm2,
            "power_mw": accelerator.power_mw, "technology": accelerator.technology,
            "layers": [_layer(layer, result) for layer in result.layers], "total": _layer(result.total, result),
            "refused_share_of_macs": result.refused_share}


def _layer(layer: LayerResult, result: Result) -> Figures:
    if layer.refused:
        return {"layer": layer.name, "operator": layer.operator, "dense_macs": layer.dense_macs,
                "refused": layer.refused}
    spent = layer.activity.spent
    every = max(1, sum(spent.values()))
    return {"layer": layer.name, "operator": layer.operator, "dense_macs": layer.dense_macs, "refused": "",
            "cycles": layer.activity.cycles, "time_us": result.time_us(layer), "utilisation": result.utilisation(layer),
            "share_of_multiplier_cycles": {cause: spent.get(cause, 0) / every for cause in CAUSES},
            "weight_bytes": layer.weight_bytes, "activation_bytes": layer.activation_bytes,
            "accesses": dict(layer.activity.accesses), "energy_uj": 1e-6 * sum(layer.energy_pj.values()),
            "energy_uj_by_part": {part: 1e-6 * pj for part, pj in layer.energy_pj.items()}}


def _suits(accelerators: Sequence[Figures]) -> list[Figures]:
    """Of every layer which accelerator is the fastest, takes the least energy, and uses its multipliers best."""
    found = []
    for index, layer in enumerate(accelerators[0]["layers"]):
        ran = {each["accelerator"]: each["layers"][index] for each in accelerators
               if not each["layers"][index]["refused"]}
        best = {"fastest": min(ran, key=lambda name: float(ran[name]["time_us"]), default=""),
                "least_energy": min(ran, key=lambda name: float(ran[name]["energy_uj"]), default=""),
                "best_used": max(ran, key=lambda name: float(ran[name]["utilisation"]), default="")}
        found.append({**{key: layer[key] for key in ("layer", "operator", "dense_macs")}, **best})
    return found


def describe_sweep(parameter: str, points: Mapping[int, Sequence[Result]]) -> Figures:
    """The totals of several accelerators by the values of a parameter."""
    return {"parameter": parameter, "points": [
        {"value": value, "accelerators": [{"accelerator": result.accelerator.name, **_layer(result.total, result)}
                                          for result in results]} for value, results in points.items()]}


def describe_accelerator(accelerator: Accelerator) -> Figures:
    """A description with everything that is known of it."""
    return {"accelerator": accelerator.name, "paper": accelerator.paper, "surveyed": accelerator.surveyed,
            "trains": accelerator.trains, "table": dict(zip(COLUMNS, row(accelerator), strict=True)),
            "differs": dict(accelerator.differs),
            "runs_here": sorted(each.value for each in accelerator.operators | accelerator.extended),
            "skips": {"zero weights": accelerator.skips_weights, "zero activations": accelerator.skips_activations,
                      "gates zeros": accelerator.gates},
            "storage": {"weights": str(accelerator.weights), "activations": str(accelerator.activations)},
            "parameters": {name: {"value": parameter.default, "text": parameter.text}
                           for name, parameter in accelerator.parameters.items()},
            "buffers": {name: {"bytes": buffer.nbytes, "bits_of_an_access": buffer.width}
                        for name, buffer in accelerator.buffers.items()},
            "area_mm2": accelerator.area_mm2, "power_mw": accelerator.power_mw, "technology": accelerator.technology,
            "assumptions": list(accelerator.assumptions), "sources": list(accelerator.sources),
            "checked_against_the_paper": accelerator.checked}


def describe_headline(headline: Headline, here: Sequence[float]) -> Figures:
    """A paper's comparison and what came out `here` with random masks: how far that is from the paper."""
    return {"accelerator": headline.accelerator, "what": headline.what, "paper": headline.paper, "here": list(here),
            "span": _span(here),
            "difference": _span([100 * (each / headline.paper - 1) for each in here], "+.0f", " %"),
            "source": headline.source, "why": headline.why, "leads": headline.leads}


def _span(values: Sequence[float], form: str = "", unit: str = "") -> str:
    """The smallest and the largest, or one where they read the same; three digits at least."""
    form = form or f",.{max(0, 2 - int(math.log10(max(values))))}f"
    low, high = (f"{value:{form}}" for value in (min(values), max(values)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
