"""What every plot needs: its figure as text, and as a file."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from sparsec import files


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG file, by the path's suffix; matplotlib raises ValueError for one it does not know."""
    files.write_by(path, lambda file: figure.savefig(file, format=path.suffix.removeprefix(".") or None))
