"""sparsec: compile a pruned ONNX model into the fastest program that its sparsity allows.

The names below are imported on first use: `import sparsec` loads neither TVM nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsec.artifact.file import Artifact
    from sparsec.compiler.compile import compile  # noqa: A004 - the name that users know from other compilers
    from sparsec.compiler.portable import build
    from sparsec.errors import SparsecError
    from sparsec.generation.loop import Generation, generate
    from sparsec.generation.sampling import Sampling
    from sparsec.integrations.onnxruntime_provider import register_onnxruntime
    from sparsec.integrations.torch_export import from_torch
    from sparsec.native.operator_library import onnxruntime_library
    from sparsec.runtime.session import InferenceSession

__all__ = ["Artifact", "Generation", "InferenceSession", "Sampling", "SparsecError", "build", "compile", "from_torch",
           "generate", "onnxruntime_library", "register_onnxruntime"]

_HOMES = {"Artifact": "artifact.file", "Generation": "generation.loop", "InferenceSession": "runtime.session",
          "Sampling": "generation.sampling", "SparsecError": "errors", "build": "compiler.portable",
          "compile": "compiler.compile",
          "from_torch": "integrations.torch_export", "generate": "generation.loop",
          "onnxruntime_library": "native.operator_library",
          "register_onnxruntime": "integrations.onnxruntime_provider"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsec' has no attribute '{name}'")
    try:
        module = importlib.import_module(f"sparsec.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        from sparsec.errors import ToolchainError
        if error.name == "torch":
            raise ToolchainError(f"sparsec.{name} needs PyTorch; pip install torch") from error
        if (error.name or "").partition(".")[0] != "sparsec":
            raise
        raise ToolchainError(f"sparsec.{name} needs the compiler, and sparsec-runtime only runs what it has compiled; "
                             "install sparsec in its place") from error
    return getattr(module, name)


def _version() -> str:
    """That of the installed distribution, with the compiler or without it."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("sparsec")
    except PackageNotFoundError:
        return version("sparsec-runtime")
