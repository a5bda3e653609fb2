"""What layers may compute with, by name; sessions ask backends for it, and so this imports nothing."""

from __future__ import annotations

PRECISIONS = {"fp32": 1e-4, "bf16": 2e-2, "int8": 5e-2, "int4": 0.25}
"""What a layer may compute with, and the largest error that this may cause by default: that of an output relative to
its largest magnitude. Each precision allows the kernels of those before it, too. Sums are float32 or exact integers."""

INTEGERS = ("int8", "int4")
"""Precisions that allow products of integers, whose scales real inputs calibrate."""

CALIBRATED = (*INTEGERS, "fp8")
"""Precisions whose scales real inputs calibrate."""

UNCALIBRATED = "no samples tell the range of its activations"
"""How the reason begins why a layer of such a precision computes with more bits."""

HALF_PRECISIONS = {"fp16": 2e-2, "bf16": 5e-2}
"""What tensor cores compute with and what is stored around them, and the largest error that this may cause by default;
bf16 has three bits fewer than fp16. Sums are float32."""

GPU_PRECISIONS = HALF_PRECISIONS | {"int8": PRECISIONS["int8"], "fp8": 0.1}
"""With int8, weights may be bytes with a scale for every output; activations are where samples give their scale, else
float16. With fp8 both are e4m3, by such samples alone."""


def allows(precision: str, needed: str) -> bool:
    """Whether a kernel that needs one precision may be chosen at another; half precision of tensor cores is its own."""
    order = list(PRECISIONS)
    if precision not in order or needed not in order:
        return needed in (precision, order[0])
    return order.index(needed) <= order.index(precision)
