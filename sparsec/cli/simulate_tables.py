"""The tables of `sparsec simulate`, from the figures of `report.eie`."""

from __future__ import annotations

from typing import Any

from sparsec.cli import tables
from sparsec.cli.tables import console, percent

KINDS = {"fully connected": "fc", "1x1 convolution": "1x1", "convolution by position": "pos"}


def print_report(figures: dict[str, Any]) -> None:
    """Everything about one inference, or about the paper's layers."""
    _print_layers(figures)
    if "paper" in figures["layers"][0]:
        _print_paper(figures)
    _print_engines(figures)
    _print_causes(figures["total"])
    _print_energy(figures["total"])
    for line in _remarks(figures):
        console.print(line)


def _print_layers(figures: dict[str, Any]) -> None:
    def row(layer: dict[str, Any]) -> tuple[str, ...]:
        return (layer["layer"], KINDS.get(layer["kind"], ""), f"{100 * layer['weights_kept']:.0f}",
                f"{100 * layer['activations_kept']:.0f}", f"{layer['time_us']:,.1f}", f"{layer['theory_us']:,.1f}",
                f"{layer['load_balance']:.2f}", f"{layer['energy_uj']:,.2f}")

    header = ("layer", "as", "w %", "a %", "us", "theory", "bal.", "uJ")
    tables.print_table(header, [row(layer) for layer in figures["layers"]], row(figures["total"]))
    console.print("fc: linear; pos: convolution, position by position; w, a: non-zero weights and "
                  "activations; theory: us with all PEs equally busy; bal.: their load balance\n")


def _print_paper(figures: dict[str, Any]) -> None:
    rows = [(layer["layer"], f"{layer['theory_us']:.1f}", f"{paper['theory_us']:.1f}",
             f"{100 * paper['theory_difference']:+.1f} %", f"{layer['time_us']:.1f}", f"{paper['actual_us']:.1f}",
             f"{100 * paper['actual_difference']:+.1f} %")
            for layer in figures["layers"] for paper in (layer["paper"],)]
    tables.print_table(("layer", "theory us", "paper", "", "actual us", "paper", ""), rows)
    console.print()


def _print_engines(figures: dict[str, Any]) -> None:
    total, arch = figures["total"], figures["architecture"]
    rows = [(f"EIE, {arch['pes']} PEs at {arch['clock_mhz']} MHz", tables.duration(total["time_us"]),
             f"{total['frames_per_s']:,.0f}", f"{total['frames_per_j']:,.0f}", f"{total['gops']:,.1f}",
             f"{total['dense_gops']:,.0f}")]
    rows += [(engine, tables.duration(1e3 * ms), f"{1e3 / ms:,.0f}", "", "", f"{2e-6 * total['dense_macs'] / ms:,.0f}")
             for engine, ms in figures.get("beside_ms", {}).items()]
    tables.print_table(("engine", "time", "frames/s", "frames/J", "GOP/s", "dense GOP/s"), rows)
    console.print()


def _print_causes(total: dict[str, Any]) -> None:
    from sparsec.report.eie import CAUSES

    shares = total["share_of_pe_cycles"]
    tables.print_table(("PE-cycles", "share"), [(text, percent(shares[cause], 1)) for cause, text in CAUSES.items()])
    counters = total["counters"]
    console.print(f"broadcasts {counters['broadcasts']:,}; cycles waiting for a full queue {counters['full']:,}, "
                  f"changing register rows {counters['scan']:,}; reads of weights {counters['weight_reads']:,}, of "
                  f"pointers {counters['pointer_reads']:,}\n")


def _print_energy(total: dict[str, Any]) -> None:
    models = total["energy_uj_by_unit"]
    units = dict.fromkeys(unit for model in models.values() for unit in model)
    rows = [(unit, *(f"{model[unit]:,.2f}" if unit in model else "" for model in models.values())) for unit in units]
    sums = [f"{sum(model.values()):,.2f}" for model in models.values()]
    tables.print_table(("energy in uJ", *models), rows, ("total", *sums))
    difference = total["energy_models_difference"]
    more = "more" if difference > 0 else "less"
    console.print(f"counted by accesses, energy is {100 * abs(difference):.1f} % {more} than by power and time\n")


def _remarks(figures: dict[str, Any]) -> list[str]:
    from sparsec.backends.accelerators.recurrent import OPERATORS  # which imports ONNX, and this every command

    total, lines = figures["total"], []
    if "area_mm2" in figures:
        lines.append(f"area {figures['area_mm2']:.1f} mm2, power {figures['power_mw']:.0f} mW, peak "
                     f"{figures['peak_gops']:.1f} GOP/s")
    if total["offchip_bytes"]:
        lines.append(f"the SRAMs do not hold the weights: {tables.nbytes(total['offchip_bytes'])} from DRAM an "
                     f"inference, {total['offchip_uj']:,.0f} uJ more; their time is not counted")
    host = figures.get("host", [])
    if host:
        kinds = ", ".join(dict.fromkeys(node["op_type"] for node in host))
        lines.append(f"on the host: {len(host)} nodes ({kinds}), {percent(figures['host_share_of_flops'], 1)} of the "
                     "dense network's FLOPs; their time is not counted")
        if recurrent := [node["op_type"] for node in host if node["op_type"] in OPERATORS]:
            lines.append(f"the products of {' and '.join(dict.fromkeys(recurrent))} are simulated by --target ese, or "
                         "eie,ese for both side by side")
    lines += [f"output '{each['output']}' against onnxruntime: error {100 * each['error']:.2f} % in fixed point, "
              f"{100 * each['codebook_error']:.2f} % by the shared weights alone; same class in "
              f"{100 * each['same_class']:.1f} %"
              for each in figures.get("accuracy", [])]
    saturated = sum(figures.get("saturated", {}).values())
    return [*lines, f"{saturated:,} additions saturated"] if saturated else lines


def print_sweep(sweep: dict[str, Any]) -> None:
    """One line a value, summed over the layers."""
    totals = [(point["value"], point["total"]) for point in sweep["points"]]
    first = totals[0][1]["time_us"]
    rows = [(value, tables.duration(total["time_us"]), f"{first / total['time_us']:.2f}x",
             f"{total['utilisation']:.3f}", percent(total["padding"], total["entries"]),
             f"{total['counters']['weight_reads']:,}", f"{total['energy_uj']:,.2f}") for value, total in totals]
    console.print()
    tables.print_table((sweep["parameter"], "time", "speed-up", "busy", "padding", "weight reads", "uJ"), rows)
