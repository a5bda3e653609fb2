"""The kernel families of CPUs, by name; few rows, products, images and codes each have their own table."""

from __future__ import annotations

from sparsec.kernels.cpu import codes, images, products, rows
from sparsec.kernels.cpu.layer import CpuFamily

FAMILIES: dict[str, CpuFamily] = {**rows.FAMILIES, **products.FAMILIES, **images.FAMILIES, **codes.FAMILIES}
