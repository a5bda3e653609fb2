"""PyTorch to ONNX."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

OPSET = 18


def export(model: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...], names: tuple[str, ...] = ("input",)) -> None:
    """Write the model in inference mode to `path`: shapes from the example `inputs`, inputs `names`, one `output`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about packages that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # and about its own internals
        program = torch.onnx.export(
            model.eval(), inputs, input_names=list(names), output_names=["output"], opset_version=OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    program.save(str(path))
