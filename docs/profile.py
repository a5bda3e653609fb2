"""Draws a profile: `sparsec bench MODEL --profile --json FILE`, then `python docs/profile.py FILE -o PICTURE.svg`.

A bar a layer, as long as its time; the dark part is what the busiest of arithmetic units, caches and memory needs.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROW, NAMES, BARS, MARGIN = 16, 190, 470, 12
"""Pixels: the height of a row, the widths of names and of the longest bar, the margin."""
TIME, LEAST = "#9ecae1", "#2171b5"
OTHERS = "everything else"


def picture(profile: Mapping[str, Any], most: int = 16) -> str:
    """The SVG of a profile: its slowest layers in the order of execution, and the rest as one bar."""
    rows = shown(profile["layers"], most)
    longest = max(row["us"] for row in rows)
    parts = [text(MARGIN, MARGIN + 4, f"{profile['total_us'] / 1e3:.2f} ms: time by layer, and the least that the "
                  "machine allows (dark)", "bold")]
    for place, row in enumerate(rows):
        top = 2 * MARGIN + place * ROW
        width = BARS * row["us"] / longest
        parts.append(text(MARGIN, top + 11, name_of(row)))
        parts.append(bar(top, width, TIME))
        if row.get("roofline") is not None:
            parts.append(bar(top, width * min(1, row["roofline"]), LEAST))
        parts.append(text(NAMES + width + 6, top + 11, f"{row['us']:.0f} us"))
    size = f"{NAMES + BARS + 60} {2 * MARGIN + len(rows) * ROW + MARGIN}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="11">\n'
            '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def shown(layers: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The slowest layers in their order, and one row for the rest."""
    slowest = sorted(layers, key=lambda row: -row["us"])[:most]
    kept = [row for row in layers if any(row is each for each in slowest)]
    rest = sum(row["us"] for row in layers) - sum(row["us"] for row in kept)
    return [*kept, {"layer": OTHERS, "us": rest}] if len(kept) < len(layers) else kept


def name_of(row: Mapping[str, Any]) -> str:
    """A layer and how its weight is stored."""
    name = row["layer"] if len(row["layer"]) <= 20 else f"…{row['layer'][-19:]}"
    return f"{name} ({row['format']})" if row.get("format") else name


def text(x: float, y: float, content: str, weight: str = "normal") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(content)}</text>'


def bar(top: float, width: float, colour: str) -> str:
    """A bar of a row."""
    return f'<rect x="{NAMES}" y="{top}" width="{width:.1f}" height="{ROW - 4}" fill="{colour}"/>'


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.write_text(picture(json.loads(arguments.profile.read_text())))


if __name__ == "__main__":
    main()
