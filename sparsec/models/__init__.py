"""Reference networks, pruning and export to ONNX.

The names that need PyTorch are imported on first use; they raise ToolchainError where it is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsec.errors import ToolchainError
from sparsec.models.dataset import digits
from sparsec.models.squeezenet_onnx import squeezenet

if TYPE_CHECKING:
    from sparsec.models.connectivity import active
    from sparsec.models.masks import apply_masks, masks_of_file
    from sparsec.models.networks import NETWORKS
    from sparsec.models.onnx_export import export
    from sparsec.models.pruning import Options, Pruned, prune
    from sparsec.models.seeds import draw
    from sparsec.models.training import Batches, Teacher, trainer

__all__ = [
    "NETWORKS", "Batches", "Options", "Pruned", "Teacher", "active", "apply_masks", "digits", "draw",
    "export", "masks_of_file", "prune", "squeezenet", "trainer",
]  # fmt: skip

_HOMES = {
    "NETWORKS": "networks", "Batches": "training", "Options": "pruning", "Pruned": "pruning", "active": "connectivity",
    "Teacher": "training", "apply_masks": "masks", "draw": "seeds", "export": "onnx_export", "masks_of_file": "masks",
    "prune": "pruning", "trainer": "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsec.models' has no attribute '{name}'")
    try:
        home = importlib.import_module(f"sparsec.models.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ToolchainError(f"sparsec.models.{name} needs PyTorch: pip install 'sparsec[models]'") from error
    return getattr(home, name)
