"""PyTorch to ONNX."""

from __future__ import annotations

import ast
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsec import files

OPSET = 18
SCOPES = "pkg.torch.onnx.name_scopes"


def export(model: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...], names: tuple[str, ...] = ("input",)) -> None:
    """Write the model in inference mode to `path`: shapes from the example `inputs`, inputs `names`, one `output`.

    Layers and their weights carry the names of the modules and parameters; batch normalisation is folded.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about packages that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # and about its own internals
        program = torch.onnx.export(
            model.eval(), inputs, input_names=list(names), output_names=["output"], opset_version=OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    for node in program.model.graph.all_nodes():
        _name(node)
        node.metadata_props.clear()  # stack traces with paths of this machine
    files.write(path, program.model_proto.SerializeToString())


def _name(node: Any) -> None:
    """Name a layer after its weight, and a weight that the exporter transposed after its module."""
    weight = next((value for value in node.inputs if value is not None and value.is_initializer()), None)
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or weight is None:
        return
    if not weight.name.endswith(".weight"):
        weight.name = f"{ast.literal_eval(node.metadata_props[SCOPES])[-2]}.weight"
    node.name = weight.name.removesuffix(".weight")
