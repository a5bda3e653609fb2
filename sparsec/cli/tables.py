"""Tables and numbers for terminals, readable at 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sparsec.cli.names import shortened
from sparsec.errors import printable


class _Console(Console):
    """A terminal that texts from files cannot command."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print texts as they read; lines wrap between words, those that are to be copied (`soft_wrap`) stay whole."""
        shown = printable if soft_wrap else self._wrapped
        super().print(*("\n".join(map(shown, each.split("\n"))) if isinstance(each, str) else each
                        for each in objects), soft_wrap=True, **options)

    def _wrapped(self, line: str) -> str:
        return textwrap.fill(printable(line), self.width, break_long_words=False, break_on_hyphens=False)


console = _Console(highlight=False, markup=False)

Row = Sequence[object]

_GAP = 2  # spaces between columns
SHOWN = 6
"""Names of layers in a line, of which there may be hundreds."""


def print_table(columns: Sequence[str], rows: Sequence[Row], total: Row | None = None) -> None:
    """Print rows below a header.

    The first column is for names, which are shortened where a terminal is too narrow, and whole in a file or a pipe;
    the others are aligned right.
    """
    lines = [tuple(printable(str(cell)) for cell in line) for line in (columns, *rows, *([total] if total else []))]
    others = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)][1:]
    room = max(12, console.width - sum(others) - _GAP * len(others))
    names = [name for name, *_ in lines[1:1 + len(rows)]]
    shown = shortened(names, room) if console.is_terminal else names
    lines[1:1 + len(rows)] = [(name, *cells) for name, (_, *cells) in zip(shown, lines[1:1 + len(rows)], strict=True)]
    width = max(cell_len(name) for name, *_ in lines)
    for index, (name, *cells) in enumerate(lines):
        padded = (" " * (most - cell_len(cell)) + cell for cell, most in zip(cells, others, strict=True))
        line = (" " * _GAP).join((name + " " * (width - cell_len(name)), *padded)).rstrip()
        console.print(Text(line, style="" if index else "bold"))


def counted(number: int, what: str) -> str:
    """A number of things: "1 layer", "2 layers"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def print_buckets(description: Mapping[str, Any]) -> None:
    """The buckets of an artifact that has several; the rest of its description is the first one's."""
    if not description["buckets"]:
        return
    rows = []
    for bucket in description["buckets"]:
        errors = (bucket["verification"] or {}).get("relative_error", {})
        rows.append((", ".join(f"{each['name']} {shape(each['shape'])}" for each in bucket["inputs"]),
                     nbytes(bucket["library_bytes"]), duration(bucket["totals"].get("predicted_us", 0)),
                     f"{max(errors.values()):.1e}" if errors else "not verified"))
    print_table(("bucket", "library", "predicted", "error"), rows)
    console.print("\nof the first bucket:\n")


def outside(layers: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for every reason that layers run without sparsec's kernels for."""
    groups: dict[str, list[str]] = {}
    for each in layers:
        groups.setdefault(each["reason"], []).append(each["layer"])
    return [f"{names[0]} runs without sparsec's kernels: {reason}" if len(names) == 1 else
            f"{len(names)} layers run without sparsec's kernels: {reason}: {_few(names)}"
            for reason, names in groups.items()]


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


def shape(sizes: Sequence[object]) -> str:
    """A shape, such as "1x3x224x224"."""
    return "x".join(str(size) for size in sizes) or "scalar"
