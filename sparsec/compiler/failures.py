"""What fails within sparsec, TVM or the memory, as errors that say where, and a small model that shows it."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import ParamSpec, TypeVar

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.compiler.pipeline import Pass
from sparsec.errors import InternalError, ModelError, SparsecError
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name

P = ParamSpec("P")
T = TypeVar("T")

PACKAGES = ("sparsec", "apache-tvm", "onnx", "onnxruntime", "numpy")
TELLING = 64
"""Elements up to which integer constants, such as shapes and axes, stay as they are in a model that shows a defect."""


def named(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose failures are refusals of the model or defects of sparsec or TVM, by name.

    Raises:
        ModelError: there is not enough memory.
        InternalError: anything else; names the node that was being worked on, the place and the versions.

    """
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (SparsecError, OSError):
            raise
        except MemoryError as error:
            raise ModelError(f"compiling the model takes more memory than there is ({error})") from error
        except Exception as error:
            check_interrupt(error)
            if "bad_alloc" in str(error):  # of TVM
                raise ModelError("compiling the model takes more memory than there is") from error
            raise internal(error) from error

    return call


def check_interrupt(error: Exception) -> None:
    """Raises KeyboardInterrupt where an error is what TVM makes of one that comes while it calls Python.

    That is a RuntimeError without a word: of exceptions TVM keeps the kind and the message, of others neither.
    """
    if type(error) is RuntimeError and hasattr(error, "__tvm_ffi_error__") and not str(error):
        raise KeyboardInterrupt from error


def internal(error: Exception) -> InternalError:
    """The defect that an exception is."""
    found_at = where(error.__traceback__)
    node, place = found_at.node, found_at.place
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    *_, last = str(error).strip().splitlines() or [""]  # TVM's errors begin with where they came from
    at = "" if node is None else f" at node '{node_name(node)}' ({node.op_type})"
    found = InternalError(f"a defect of sparsec{at}, in {place}: {type(error).__name__}: "
                          f"{last.strip()[:200]} ({versions}); please report it with what "
                          "`sparsec --debug` writes")
    found.node = b"" if node is None else shown(node)
    return found


@dataclass(frozen=True)
class Where:
    """The node that was being worked on, the module and function, and the pass where that can be done without."""

    node: ir.Node | None
    place: str
    optional_pass: str


def where(trace: TracebackType | None) -> Where:
    """Where something failed, as the innermost frames tell that know a node or a pass."""
    node, place, optional_pass = None, "sparsec", ""
    while trace is not None:
        frame, module = trace.tb_frame, trace.tb_frame.f_globals.get("__name__", "")
        if str(module).startswith("sparsec."):
            place = f"{module}.{frame.f_code.co_name}"
            found = frame.f_locals.get("node")
            node = found if isinstance(found, ir.Node) else node
            step = frame.f_locals.get("each")
            if isinstance(step, Pass):  # a node that was met before the pass has nothing to do with it
                node, optional_pass = None, "" if step.needed else step.name
        trace = trace.tb_next
    return Where(node, place, optional_pass)


def shown(node: ir.Node) -> bytes:
    """A model of one node: its inputs' shapes and types, and random numbers with its weights' zeros in their place."""
    rng = np.random.default_rng(0)
    graph = onnx.GraphProto(name="defect")
    graph.node.append(ir.to_proto(node))
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        array = constant(value)
        if array is None:
            graph.input.append(ir.to_proto(value))
            continue
        if array.dtype.kind == "f" or array.size > TELLING:
            array = np.where(array == 0, 0, rng.integers(1, 9, array.shape)).astype(array.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), value.name))
    graph.output.extend(ir.to_proto(value) for value in node.outputs)
    imports = {} if node.graph is None else node.graph.opset_imports
    model = onnx.helper.make_model(graph, opset_imports=[
        onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()])
    return bytes(model.SerializeToString())
