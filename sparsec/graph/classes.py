"""Which outputs of a model are scores of classes, one row an example, as far as its last operators say so."""

from __future__ import annotations

import onnx

MOVES = ("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that leave the order of scores as it is, looked through from the output."""
SCORING = ("Softmax", "LogSoftmax", "Sigmoid", "Gemm", "MatMul", "FusedMatMul", "QGemm", "QLinearMatMul")
"""The last operators of classifiers; a Tanh, a TopK or a normalisation gives something else."""
BIASED = ("Add", "QLinearAdd")
"""What may stand between them and the output: a bias."""


def class_outputs(model: str | bytes | onnx.ModelProto | object) -> frozenset[str]:
    """The outputs that end in an operator of `SCORING`; that they are matrices of several columns their values say.

    Args:
        model: a path, the bytes of an ONNX file, or a ModelProto.

    """
    proto = (model if isinstance(model, onnx.ModelProto) else onnx.ModelProto.FromString(model)
             if isinstance(model, bytes) else onnx.load(str(model), load_external_data=False))
    makers = {name: node for node in proto.graph.node for name in node.output}
    return frozenset(output.name for output in proto.graph.output if _scores(output.name, makers))


def _scores(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is the result of an operator of `SCORING`."""
    while (node := makers.get(name)) is not None and node.op_type in MOVES:
        name = node.input[0]
    if node is None:
        return False
    if node.op_type in BIASED:
        return any(each in makers and makers[each].op_type in (*MOVES, *SCORING) and _scores(each, makers)
                   for each in node.input)
    return node.op_type in SCORING
