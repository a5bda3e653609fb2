"""The weights that pruning may remove, and the masks that say which of them remain."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.graph.reader import load

Masks = dict[str, torch.Tensor]
"""By parameter name, True where the weight remains."""

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d
"""The modules whose weights are pruned."""


def prunable(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights of every fully connected layer and convolution by parameter name, in the order of definition.

    Biases, normalisation and embeddings are never pruned (Vysogorets & Kempe 2023, section 3). `keep` holds shell
    patterns of parameter names that stay dense too.
    """
    weights = {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    }
    return {name: w for name, w in weights.items() if not any(fnmatch(name, pattern) for pattern in keep)}


def dense_masks(weights: dict[str, nn.Parameter]) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def masks_of_file(model: nn.Module, path: str | Path) -> Masks:
    """The non-zeros of an ONNX file that the model was exported to: a pruned file's masks, to train the module under.

    Exporters keep the names of parameters, or transpose a fully connected layer's weight.

    Raises:
        ModelError: the file cannot be read.
        PruningError: the file has no weight of a layer's name and shape.

    """
    stored = load(path, symbolic=True, as_is=True).graph.initializers
    masks: Masks = {}
    missing = []
    for name, weight in prunable(model).items():
        value = stored[name].const_value if name in stored else None
        found = None if value is None else value.numpy()
        if found is not None and _transposed(stored[name]):
            found = found.T
        if found is None or found.shape != tuple(weight.shape):
            missing.append(name)
        else:
            masks[name] = torch.from_numpy(found != 0)
    if missing:
        raise PruningError(f"{path} has no weights of the names and shapes of {', '.join(missing)}: it was exported "
                           "from another model, or under other names")
    return masks


def _transposed(weight: ir.Value) -> bool:
    """Whether a layer of the file multiplies by the weight (in, out) from the right."""
    readers = [use.node for use in weight.uses()]
    return any(node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0))
               for node in readers)


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Zero the weights outside `masks` in place; call it after every optimiser step of a training loop of your own."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)


def kept(masks: Masks) -> int:
    """Number of weights that the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values())


def size(masks: Masks) -> int:
    """Number of weights under the masks."""
    return sum(mask.numel() for mask in masks.values())
