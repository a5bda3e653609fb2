"""The kernel families of CPUs, by name; few rows, products, images and codes each have their own table."""

from __future__ import annotations

from typing import Any

from sparsec.kernels.cpu import codes, images, products, rows
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.family import Family

FAMILIES: dict[str, Family[Any, Any, Isa]] = {**rows.FAMILIES, **products.FAMILIES, **images.FAMILIES, **codes.FAMILIES}
