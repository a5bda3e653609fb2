"""Tables and numbers for terminals, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, markup=False)

Row = Sequence[object]


def print_table(columns: Sequence[str], rows: Sequence[Row], total: Row | None = None) -> None:
    """Print rows below a header; the first column is for names, the others are aligned right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=total is not None)
    for index, column in enumerate(columns):
        table.add_column(column, "" if total is None else str(total[index]), justify="right" if index else "left",
                         no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


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
