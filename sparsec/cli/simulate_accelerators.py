"""The steps and tables of `sparsec simulate --target A,B,…`: a model on several accelerators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sparsec import files
from sparsec.artifact.file import is_artifact
from sparsec.backends.accelerators.activity import CAUSES
from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.execution import Watch
from sparsec.backends.accelerators.network import Network, record
from sparsec.backends.accelerators.simulate import Result, compare
from sparsec.cli import tables
from sparsec.cli.simulate_steps import time_on_cpu
from sparsec.cli.tables import console, percent
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import prepare
from sparsec.errors import UsageError, meant
from sparsec.graph.compare import Feeds
from sparsec.report import accelerators as report
from sparsec.report.accelerators_html import render

Configurations = dict[str, dict[str, int]]


def choose(names: str) -> list[Accelerator]:
    """The accelerators of a list such as "scnn,eie"; "all" are all.

    Raises:
        UsageError: there is none of a name.

    """
    chosen = list(ACCELERATORS) if names == "all" else list(dict.fromkeys(names.split(",")))
    for name in chosen:
        if name not in ACCELERATORS:
            raise UsageError(f"'{name}' cannot be simulated; {meant(name, ACCELERATORS)}choose from "
                             f"{', '.join(ACCELERATORS)}, or all")
    return [ACCELERATORS[name] for name in chosen]


def configure(chosen: Sequence[Accelerator], settings: Iterable[str]) -> Configurations:
    """What settings such as "units=32" and "scnn.units=32" change, by accelerator.

    Raises:
        UsageError: one is written wrongly, or no accelerator has its parameter.

    """
    changed: Configurations = {each.name: {} for each in chosen}
    for text in settings:
        left, _, value = text.partition("=")
        owner, _, parameter = left.rpartition(".")
        parameter = parameter.replace("-", "_")
        if not value.isdecimal():
            raise UsageError(f"--config {text}: give a parameter and a number, such as units=32 or scnn.units=32")
        owners = [each for each in chosen if owner in ("", each.name) and parameter in each.parameters]
        if owner and owner not in changed:
            raise UsageError(f"--config {text}: '{owner}' is not among the chosen accelerators, {', '.join(changed)}")
        if not owners:
            known = dict.fromkeys(name for each in chosen if owner in ("", each.name) for name in each.parameters)
            raise UsageError(f"--config {text}: no chosen accelerator has it; there are {', '.join(known)}")
        for each in owners:
            changed[each.name][parameter] = int(value)
    for each in chosen:
        each.configure(changed[each.name])
    return changed


def check_sweep(chosen: Sequence[Accelerator], changed: Configurations, parameter: str, values: Sequence[int]) -> None:
    """Refuse a sweep before anything is simulated.

    Raises:
        UsageError: no accelerator has the parameter, or a value is impossible.

    """
    those = [each for each in chosen if parameter in each.parameters]
    if not those:
        known = dict.fromkeys(name for each in chosen for name in each.parameters)
        raise UsageError(f"cannot sweep '{parameter}'; {meant(parameter, known)}choose from {', '.join(known)}")
    for each in those:
        for value in values:
            each.configure({**changed[each.name], parameter: value})


def load(file: Path, chosen: CompileOptions, feeds: Feeds | None, watch: Watch) -> tuple[Network, Feeds]:
    """The layers of a model with the activations that inputs, or random ones, give them.

    Raises:
        UsageError: it is an artifact, or it has no layer with a weight.

    """
    if is_artifact(file):
        raise UsageError(f"{file} is compiled; give the ONNX model, which several accelerators can be asked about")
    prepared = prepare(file, chosen)
    (generated,) = prepared.job.generated
    network = record(prepared.graph, feeds or generated, watch)
    if not network.layers:
        raise UsageError(f"{file} has no layer with a weight, which is what accelerators run")
    return network, feeds or generated


def run(network: Network, chosen: Sequence[Accelerator], changed: Configurations, watch: Watch) -> list[Result]:
    """The network on all of them."""
    return compare(network.layers, [(each, changed[each.name]) for each in chosen], watch)


def sweep(network: Network, chosen: Sequence[Accelerator], changed: Configurations, parameter: str,
          values: Sequence[int], watch: Watch) -> report.Figures:
    """The totals by the values of a parameter, of those accelerators that have it."""
    those = [each for each in chosen if parameter in each.parameters]
    return report.describe_sweep(parameter, {
        value: run(network, those, {each.name: {**changed[each.name], parameter: value} for each in those}, watch)
        for value in values})


def figures_of(file: Path, chosen: CompileOptions, feeds: Feeds, network: Network, results: Sequence[Result], *,
               beside_cpu: bool) -> report.Figures:
    """Everything that tables, pages and files show."""
    return report.describe(results, network, time_on_cpu(file, chosen, feeds) if beside_cpu else {})


def write_html(path: Path | None, figures: report.Figures, sweeps: Sequence[report.Figures], title: str) -> None:
    """The page, where one is asked for."""
    if path is not None:
        files.write(path, render(figures, sweeps, title).encode())


def print_report(figures: dict[str, Any]) -> None:
    """One table of all accelerators, where their cycles go, and which layers suit which."""
    rows = [_row(each) for each in figures["accelerators"]]
    rows += [(engine, "", "", tables.duration(1e3 * ms), "", "", "", "") for engine, ms in figures["beside_ms"].items()]
    tables.print_table(("accelerator", "mult.", "MHz", "time", "not run", "useful", "kB", "uJ"), rows)
    console.print("not run: multiply-adds in layers that it does not run; useful: cycles of "
                  "multipliers for two non-zeros; kB: weights as stored; uJ: at 45 nm, with DRAM\n")
    for each in figures["accelerators"]:
        shares = each["total"]["share_of_multiplier_cycles"]
        most = sorted((cause for cause in CAUSES if shares[cause] >= 0.005), key=lambda cause: -shares[cause])
        console.print(f"{each['accelerator']}: "
                      + (", ".join(f"{percent(shares[cause], 1)} {CAUSES[cause]}" for cause in most) or "runs nothing"))
    _print_suits(figures["layers"])
    if figures["host"]:
        console.print(f"\non the host: {', '.join(figures['host'])}, {percent(figures['host_share_of_flops'], 1)} of "
                      "the dense network's FLOPs; their time is not counted")


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    total = each["total"]
    return (each["accelerator"], f"{each['multipliers']:,}", f"{each['configuration']['clock_mhz']:,}",
            tables.duration(total["time_us"]), percent(each["refused_share_of_macs"], 1),
            percent(total["utilisation"], 1),
            f"{total['weight_bytes'] / 1e3:,.0f}", f"{total['energy_uj']:,.1f}")


def _print_suits(layers: Sequence[dict[str, Any]]) -> None:
    console.print()
    for quality, text in (("fastest", "fastest"), ("least_energy", "least energy"), ("best_used", "best used")):
        names = [layer[quality] for layer in layers if layer[quality]]
        counts = sorted(((names.count(name), name) for name in dict.fromkeys(names)), key=lambda each: -each[0])
        console.print(f"{text}: {', '.join(f'{name} in {count}' for count, name in counts) or 'none'} of "
                      f"{len(layers)} layers")


def print_sweep(swept: dict[str, Any]) -> None:
    """One line an accelerator and value."""
    rows = [(f"{each['accelerator']} {point['value']}", tables.duration(each["time_us"]),
             percent(each["utilisation"], 1),
             f"{each['energy_uj']:,.1f}") for point in swept["points"] for each in point["accelerators"]]
    console.print()
    tables.print_table((swept["parameter"], "time", "useful", "uJ"), rows)
