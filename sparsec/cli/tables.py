"""Tables and numbers for terminals, readable at 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sparsec.cli.flags import sizes_as_typed
from sparsec.cli.names import shortened
from sparsec.errors import counted, printable

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[num]?s)(?!\w))")
"""The blank of "90 %" or "1.2 us", at which no line ends."""


class _Console(Console):
    """A terminal that texts from files cannot command."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print texts as they read; lines wrap between words, those that are to be copied (`soft_wrap`) stay whole."""
        shown = printable if soft_wrap else self._wrapped
        super().print(*("\n".join(map(shown, each.split("\n"))) if isinstance(each, str) else each
                        for each in objects), soft_wrap=True, **options)

    def _wrapped(self, line: str) -> str:
        held = _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", printable(line))
        filled = textwrap.fill(held, self.width, break_long_words=False, break_on_hyphens=False)
        return filled.replace("\N{NO-BREAK SPACE}", " ")


console = _Console(highlight=False, markup=False)

Row = Sequence[object]
Column = tuple[str, ...]

_GAP = 2  # spaces between columns
LEAST_NAME = 12
"""Characters of a name that stay in the narrowest terminal."""
NEGLIGIBLE = 1e-9
"""Relative errors below it come of outputs next to 0 beside others of 1, as a saturated softmax has."""
SHOWN = 6
"""Names of layers in a line, of which there may be hundreds."""


def print_table(columns: Sequence[str], rows: Sequence[Row], total: Row | None = None) -> None:
    """Print rows below a header.

    The first column is for names, the others are aligned right. Where a terminal is too narrow, names are shortened,
    and columns for which no room is left follow below, beside the names again; in a file or a pipe all is in one.
    """
    lines = [tuple(printable(str(cell)) for cell in line) for line in (columns, *rows, *([total] if total else []))]
    names, others = [name for name, *_ in lines[1:1 + len(rows)]], list(zip(*(line[1:] for line in lines), strict=True))
    longest = max(cell_len(name) for name, *_ in lines)
    for index, block in enumerate(_blocks(others, min(longest, LEAST_NAME)) if console.is_terminal else [others]):
        if index:
            console.print()
        widths = [max(map(cell_len, cells)) for cells in block]
        room = max(LEAST_NAME, console.width - sum(widths) - _GAP * len(widths))
        shown = shortened(names, room) if console.is_terminal else names
        first = [lines[0][0], *shown, *(name for name, *_ in lines[1 + len(rows):])]
        _print_lines(first, list(zip(*block, strict=True)) or [()] * len(first), widths)


def _blocks(columns: Sequence[Column], least: int) -> list[list[Column]]:
    """The columns that fit beside names of the least width, and then the next; one that is too wide is alone."""
    blocks: list[list[Column]] = [[]]
    used = least
    for cells in columns:
        width = _GAP + max(map(cell_len, cells))
        if blocks[-1] and used + width > console.width:
            blocks.append([])
            used = least
        blocks[-1].append(cells)
        used += width
    return blocks


def _print_lines(names: Sequence[str], cells: Sequence[Column], widths: Sequence[int]) -> None:
    """The lines of a table, of which the first is its header."""
    width = max(map(cell_len, names))
    for index, (name, line) in enumerate(zip(names, cells, strict=True)):
        padded = (" " * (most - cell_len(cell)) + cell for cell, most in zip(line, widths, strict=True))
        text = (" " * _GAP).join((name + " " * (width - cell_len(name)), *padded)).rstrip()
        console.print(Text(text, style="" if index else "bold"))


def told(number: int, what: str) -> str:
    """A number of what several of are called so: "1 unit removed" of "units removed"."""
    things, _, rest = what.partition("s ")
    return f"{number:,} {f'{things} {rest}' if number == 1 and rest else what}"


def millions(count: int) -> str:
    """A number in millions, such as "11.7" or "0.005"."""
    millions = count / 1e6
    return f"{millions:.1f}" if millions >= 1 or not count else f"{millions:.1g}"


def changed(before: str, after: str) -> str:
    """What a figure was and is, "32 > 30"; once where both read alike."""
    return before if before == after else f"{before} > {after}"


def print_buckets(description: Mapping[str, Any]) -> None:
    """The buckets of an artifact that has several; the rest of its description is the first one's."""
    if not description["buckets"]:
        return
    rows = []
    for bucket in description["buckets"]:
        errors = (bucket["verification"] or {}).get("relative_error", {})
        rows.append((", ".join(f"{each['name']} {shape(each['shape'])}" for each in bucket["inputs"]),
                     nbytes(bucket["library_bytes"]), duration(bucket["totals"].get("predicted_us", 0)),
                     error(max(errors.values())) if errors else "not verified"))
    print_table(("bucket", "library", "predicted", "error"), rows)
    console.print("\nof the first bucket:\n")


def outside(layers: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for every reason that layers run without sparsec's kernels for: few by name, many by operator."""
    groups: dict[str, list[Mapping[str, str]]] = {}
    for each in layers:
        groups.setdefault(each["reason"], []).append(each)
    lines = []
    for text, group in groups.items():
        reason = sizes_as_typed(text)
        names, kinds = [each["layer"] for each in group], [each.get("operator", "") for each in group]
        if len(names) == 1:
            lines.append(f"{names[0]} runs without sparsec's kernels: {reason}")
            continue
        told = _few(names) if len(names) <= SHOWN or "" in kinds else ", ".join(kinds_of(kinds))
        lines.append(f"{len(names)} layers run without sparsec's kernels: {reason}: {told}")
    return lines


def timed(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What timing chose instead of the predictions, a line for every kernel and the one that it replaces."""
    groups: dict[str, list[str]] = {}
    for each in layers:
        if other := each.get("instead_of"):
            own = (each["format"], each["kernel"])
            shown = (own[0], other[0]) if own[0] != other[0] else (" ".join(own), " ".join(other))
            groups.setdefault(f"timed: {shown[0]} instead of {shown[1]} (predicted)", []).append(
                each["layer"] + (f" for {counted(each['rows'], 'row')}" if each.get("rows") else ""))
    return [f"{what}: {_few(names)}" for what, names in groups.items()]


def single(report: Mapping[str, Any], threads: int) -> list[str]:
    """That a program which may use several threads uses one, and why; nothing of others."""
    if (found := report.get("single")) is None or threads == 1:
        return []
    how = "measured" if found["measured"] else "predicted"
    times = f"{duration(found['one_us'])}, where all take {duration(found['all_us'])}, {how}"
    return [f"runs on 1 thread of the {threads} that it may use: {times}"]


def early(report: Mapping[str, Any]) -> list[str]:
    """Whether kernels of a GPU are launched before those in front of them have ended, and why; nothing of others."""
    if (found := report.get("overlap")) is None:
        return []
    told = "kernels are launched before those in front of them have ended" if found["early"] else (
        "kernels are launched when those in front of them have ended")
    if found["on_us"] is None:
        return [f"{told}, as was asked for"]
    took, other = (found[name] for name in (("on_us", "off_us") if found["early"] else ("off_us", "on_us")))
    shapes = found.get("shapes") or {}
    at = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return [f"{told}: a call takes {duration(took)}, and {duration(other)} otherwise, measured{at and f' with {at}'}"]


def overlapping(network_us: float, layers_us: float) -> str:
    """Why a network is predicted to take less than its layers, where it does."""
    return "; less than the layers one by one, whose inputs lie in caches when they follow each other" if (
        network_us < layers_us) else ""


def kinds_of(operators: Iterable[str]) -> list[str]:
    """How many there are of every operator, the most first: "44 QuantizeLinear", "2 MatMul"."""
    return [f"{count} {kind}" for kind, count in Counter(operators).most_common()]


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def nbytes(count: float) -> str:
    """A size in bytes, such as "1.4 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(microseconds: float) -> str:
    """A time, such as "12.3 us" or "4.56 ms"."""
    return f"{microseconds:.1f} us" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"


def percent(part: float, whole: float) -> str:
    """A share, such as "4.9 %"."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def error(relative: float) -> str:
    """A relative error, such as "1.2e-07"; what float32 cannot show beside the largest value needs no digits."""
    return "0" if relative == 0 else "below 1e-9" if relative < NEGLIGIBLE else f"{relative:.1e}"


def shape(sizes: Sequence[object]) -> str:
    """A shape, such as "1x3x224x224"."""
    return "x".join(str(size) for size in sizes) or "scalar"
