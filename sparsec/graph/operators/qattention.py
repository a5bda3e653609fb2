"""sparsec::QAttention: scaled dot-product attention whose every step is quantised, on unsplit projections of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from onnx.reference.op_run import OpRun
from scipy.special import softmax

from sparsec.graph.operators import attention, integers, schema
from sparsec.graph.operators.qbatch_matmul import QBatchMatMul
from sparsec.graph.operators.qbinary import QBinary

DOC = """
For every head h, on the slices [h * D, (h + 1) * D) of the projections along the last axis, in float32 operations:
    S = sat(rint(float((Q - q_zero_point) (K - k_zero_point)^T) * ((q_scale * k_scale) / s_scale)) + s_zero_point),
    T = sat(rint((S - s_zero_point) * (s_scale / t_scale) + (M - m_zero_point) * (m_scale / t_scale)) + t_zero_point)
        with a mask M; S without, and its scale and zero point are those of t,
    P = sat(rint(softmax((T - t_zero_point) * t_scale) / p_scale) + p_zero_point), the softmax along the keys,
    Y = clamp(rint(float((P - p_zero_point) (V - v_zero_point)) * ((p_scale * v_scale) / y_scale)) + y_zero_point,
              low, high).
"""
STEPS = ("s", "t", "p")
"""The letters of what is quantised in between: scores, masked scores, weights."""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    types = {letter: attributes.get(f"{letter}_type", "uint8") for letter in (*STEPS, "y")}
    for letter, each in types.items():
        if each not in integers.CODES:
            raise ValueError(f"{letter}_type is '{each}', not one of {', '.join(integers.CODES)}")
    return attention.output_shape(shapes, attributes)


def _step(letter: str, of: str) -> list[OpSchema.Attribute]:
    name = f"{letter}_type"
    return [OpSchema.Attribute(name, make_attribute(name, "uint8"), f"Element type of {of}."),
            *integers.scale_of(letter, of)]


SCHEMA = schema.make(
    "QAttention", DOC,
    [
        schema.required("Q", "Q", "Queries (B, T, heads * D)."),
        schema.required("K", "Q", "Keys (B, S, heads * D)."),
        schema.required("V", "Q", "Values (B, S, heads * D)."),
        schema.optional("M", "Q", "Mask; broadcasts to (B, heads, T, S)."),
    ],
    [
        OpSchema.Attribute("heads", OpSchema.AttrType.INT, "Number of heads.", required=True),
        *integers.scale_of("q", "Q"), *integers.scale_of("k", "K"), *integers.scale_of("v", "V"),
        *integers.scale_of("m", "M"), *_step("s", "the scores"), *_step("t", "the scores with the mask"),
        *_step("p", "the weights"), *integers.RESULT,
    ],
    output_shape, integers.declared_type,
)


class QAttention(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, Q: np.ndarray, K: np.ndarray, V: np.ndarray, M: np.ndarray | None = None, *, heads: int,
             low: int, high: int, **a: Any) -> tuple[np.ndarray]:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (Q, K, V))  # (B, heads, T or S, D)
        product: Any = QBatchMatMul.eval
        add: Any = QBinary.eval

        def of(letter: str, into: str) -> dict[str, Any]:
            return {f"{into}_{name}": a[f"{letter}_{name}"] for name in ("scale", "zero_point", "type")
                    if f"{letter}_{name}" in a}

        every: dict[str, Any] = {"low": -128, "high": 255}
        codes = product(q, k.swapaxes(2, 3), **of("q", "a"), **of("k", "b"), **of("s", "y"), **every)
        if M is not None:
            codes = add(codes, M, function="add", a_scale=a["s_scale"], a_zero_point=a["s_zero_point"],
                        **of("m", "b"), **of("t", "y"), **every)
        scores = integers.centred(codes, a["t_zero_point"]).astype(np.float32) * np.float32(a["t_scale"])
        weights = integers.quantize(softmax(scores, axis=-1) / np.float32(a["p_scale"]), a["p_zero_point"], a["p_type"])
        mixed = product(weights, v, a_scale=a["p_scale"], a_zero_point=a["p_zero_point"], **of("v", "b"),
                        **of("y", "y"), low=low, high=high)
        return (np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(Q.shape)),)
