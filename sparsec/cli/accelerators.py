"""`sparsec accelerators`: the sparse accelerators that can be simulated, as the survey lists them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparsec.cli import options, tables
from sparsec.errors import UsageError, meant


def command(
    explain: Annotated[str | None, typer.Option(metavar="NAME", help="Everything known of one of them.")] = None,
    headlines: Annotated[bool, typer.Option("--headlines", help="The papers' own comparisons, simulated.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Random masks of each of the --headlines.")] = 5,
    json: options.JsonFile = None,
) -> None:
    """List the sparse accelerators, or explain one.

    Those of Hoefler et al. 2021 (table 1), and the dense ones beside them.
    """
    from sparsec.backends.accelerators.designs import ACCELERATORS
    from sparsec.backends.accelerators.table import COLUMNS
    from sparsec.report.accelerators import describe_accelerator

    if explain is not None and explain not in ACCELERATORS:
        raise UsageError(f"there is no accelerator '{explain}'; {meant(explain, ACCELERATORS)}choose from "
                         f"{', '.join(ACCELERATORS)}")
    if headlines:
        options.write_json(json, {"headlines": _headlines(explain, seeds)})
        return
    figures = {name: describe_accelerator(each) for name, each in ACCELERATORS.items()}
    if explain is not None:
        _print_one(figures[explain])
        options.write_json(json, figures[explain])
        return
    tables.print_table(("target", *COLUMNS), [(name, *each["table"].values()) for name, each in figures.items()])
    tables.console.print(
        "\nw mem, y mem: weights and activations as stored (CSC: columns or run lengths, COO:\n"
        "coordinates, BM: bitmaps, CB: compressed blocks, -: dense); y comp: zero activations\n"
        "are left out; --explain NAME tells more")
    options.write_json(json, {"accelerators": list(figures.values())})


def _headlines(name: str | None, seeds: int) -> list[dict[str, Any]]:
    from sparsec.backends.accelerators.headlines import HEADLINES
    from sparsec.report.accelerators import describe_headline

    found = [describe_headline(each, [each.here(seed) for seed in range(seeds)])
             for each in HEADLINES if name in (None, each.accelerator)]
    if not found:
        have = dict.fromkeys(each.accelerator for each in HEADLINES)
        raise UsageError(f"there are no comparisons of '{name}' here; choose from {', '.join(have)}")
    tables.print_table(("comparison", "paper", "here", "difference"), [
        (f"{each['accelerator']} {each['what']}", f"{each['paper']:,.2f}", each["span"], each["difference"])
        for each in found])
    return found


def _print_one(each: dict[str, Any]) -> None:
    say = tables.console.print
    say(f"{each['paper']}\n")
    rows = [(column, cell) for column, cell in each["table"].items()]
    rows += [("runs here", ", ".join(each["runs_here"])), ("weights", each["storage"]["weights"]),
             ("activations", each["storage"]["activations"]),
             ("leaves out", ", ".join(what for what, does in each["skips"].items() if does) or "nothing"),
             ("made for", "training; its forward pass is simulated" if each["trains"] else "inference")]
    rows += [(name, value) for name, value in (("area", each["area_mm2"] and f"{each['area_mm2']:.2f} mm2"),
                                               ("power", each["power_mw"] and f"{each['power_mw']:,.0f} mW"),
                                               ("technology", each["technology"])) if value]
    tables.print_table(("", ""), rows)
    say()
    tables.print_table(("parameter", "value", ""), [(name, parameter["value"], parameter["text"])
                                                    for name, parameter in each["parameters"].items()])
    if each["buffers"]:
        say()
        tables.print_table(("buffer", "bytes", "bits of an access"), [
            (name, f"{buffer['bytes']:,}", buffer["bits_of_an_access"]) for name, buffer in each["buffers"].items()])
    cited = "" if each["checked_against_the_paper"] else ", as widely cited, not checked against the paper's text"
    for title, lines in (("assumptions", each["assumptions"]), (f"sources{cited}", each["sources"]),
                         ("unlike the survey's table", [f"{cell}: {why}" for cell, why in each["differs"].items()])):
        if lines:
            say(f"\n{title}:")
            for line in lines:
                say(f"- {line}")
