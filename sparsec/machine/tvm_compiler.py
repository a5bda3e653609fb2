"""TVM's compiler, imported once and without PyTorch; whatever imports `tvm` by name imports this before."""

from __future__ import annotations

from sparsec.machine.optional import hidden

with hidden("torch"):
    import tvm.relax
    import tvm.s_tir.dlight  # noqa: F401 - what `sparsec` uses of TVM, all of which would look for PyTorch
