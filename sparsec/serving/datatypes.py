"""Element types as servers name them: the Open Inference Protocol, and Triton, whose names begin with `TYPE_`."""

from __future__ import annotations

DATATYPES = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "bfloat16": "BF16", "bool": "BOOL",
             **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}
"""By numpy's names."""
