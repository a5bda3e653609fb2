"""What the pieces of a kernel pass to each other, by TVM's names, which the type checker does not look into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from tvm import tirx

Expr: TypeAlias = tirx.Expr
"""An expression of the kernel, often an index, or a Python number that stands for one."""
Buffer: TypeAlias = tirx.Buffer
"""An array: an argument, or registers."""
Buffers: TypeAlias = Mapping[str, Buffer]
"""A kernel's arguments by name."""
Kernel: TypeAlias = tirx.PrimFunc
