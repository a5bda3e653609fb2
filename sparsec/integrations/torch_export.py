"""From a PyTorch module to an artifact, through `torch.export` and ONNX."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsec.artifact.file import Artifact
from sparsec.compiler.compile import compile as compile_onnx
from sparsec.errors import ModelError, SparsecError, UsageError
from sparsec.graph.quiet import quiet


def from_torch(module: torch.nn.Module, example: Any, *, kwargs: Mapping[str, Any] | None = None,
               dynamic_shapes: Any = None, input_names: list[str] | None = None,
               output_names: list[str] | None = None, **options: Any) -> Artifact:
    """Compile a PyTorch module.

    Args:
        module: in evaluation mode.
        example: what it is called with: a tensor, or a tuple of arguments.
        kwargs: further arguments of the call by name.
        dynamic_shapes: sizes that stay open, as `torch.export.export` takes them: `({0: "batch"},)` is any number of
            rows of the one argument, `({0: "batch", 1: "length"}, None)` keeps those of the second. Where they are not
            given, all sizes are the example's, the batch too.
        input_names: of the artifact; PyTorch's own where they are not given.
        output_names: as `input_names`.
        options: those of `sparsec.compile`.

    Raises:
        UsageError: the module is none or in training mode, the example holds numpy's arrays, or `dims` are given where
            no size is open.
        ModelError: PyTorch cannot export it; says why.
        SparsecError: as `sparsec.compile`.

    """
    _check(module, {"example": example, "kwargs": kwargs})
    if module.training:
        raise UsageError(f"{type(module).__name__} is in training mode; call its eval() first")
    if dynamic_shapes is None and (dims := options.get("dims")):
        raise UsageError(f'dims={dims!r}: {type(module).__name__} has the sizes of the example; leave dims out, '
                         'or name those that stay open with dynamic_shapes, such as ({0: "batch"},)')
    arguments = example if isinstance(example, tuple) else (example,)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:  # weights of over 2 GB lie beside the model's file
        path = Path(folder) / "model.onnx"
        try:
            with warnings.catch_warnings(action="ignore"), quiet():
                program = torch.onnx.export(
                    module, arguments, kwargs=dict(kwargs or {}), dynamo=True, verbose=False,
                    dynamic_shapes=dynamic_shapes, input_names=input_names, output_names=output_names)
            assert program is not None  # as with dynamo
            program.save(path, external_data=True)
        except Exception as error:  # what the exporter raises has no common base
            cause = error.__cause__ or error  # the exporter's own words are about its steps
            reason = str(cause).strip().partition("\n")[0]
            raise ModelError(f"PyTorch cannot export {type(module).__name__} to ONNX: {reason}; `torch.onnx.export("
                             "…, dynamo=True, report=True)` says more") from error
        try:
            return compile_onnx(path, **options)
        except SparsecError as error:
            error.args = (str(error).replace(str(path), type(module).__name__),)  # nobody knows the file
            raise


def _check(module: object, given: Mapping[str, object]) -> None:
    """Refuse what is no module, and arrays where PyTorch takes tensors."""
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"module is of type {type(module).__name__}; give a torch.nn.Module, or an ONNX file to "
                         "sparsec.compile")
    for name, value in given.items():
        if _holds_arrays(value):
            raise UsageError(f"{name} holds an array of numpy's; give tensors, such as torch.from_numpy(x)")


def _holds_arrays(value: object) -> bool:
    """Whether a value is an array of numpy's, or has one in tuples, lists and dictionaries."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return isinstance(value, np.ndarray | np.generic) or any(map(_holds_arrays, inner))
