"""Packings by name: what an artifact stores beside a weight, so that it becomes a kernel's arrays when it is opened.

Nothing here imports TVM.
"""

from __future__ import annotations

from sparsec.kernels.packing.bitmaps import Bitmaps
from sparsec.kernels.packing.blocks import GroupBlocks, OverlappingBlocks, PaddedBlocks
from sparsec.kernels.packing.groups import Groups
from sparsec.kernels.packing.padded_rows import PaddedRows
from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.row_groups import RowGroups
from sparsec.kernels.packing.tap_columns import TapColumns
from sparsec.kernels.packing.windows import Windows
from sparsec.kernels.packing.winograd import WinogradBlocks

RECIPES: dict[str, type[Recipe]] = {
    kind.__name__: kind for kind in (
        Bitmaps, GroupBlocks, Groups, OverlappingBlocks, PaddedBlocks, PaddedRows, RowGroups,
        TapColumns, Windows, WinogradBlocks)}

__all__ = ["RECIPES", "Recipe"]
