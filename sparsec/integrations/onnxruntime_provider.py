"""`SparsecExecutionProvider` in a Python process: the parts of a graph that sparsec does well, compiled for its plugin.

onnxruntime asks the plugin for the nodes that it takes; the plugin asks `_divide` here. Nodes that sparsec knows become
parts, each the largest that no path leaves and enters again. A part is taken if it has a layer with a constant weight
and compiles; everything else is onnxruntime's own provider's, in the same session.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from sparsec import files
from sparsec.compiler.compile import compile as compile_model
from sparsec.compiler.options import CompileOptions
from sparsec.errors import SparsecError, ToolchainError, UsageError
from sparsec.graph import ort
from sparsec.graph.shapes import SIZED_BY_VALUES
from sparsec.integrations.onnxruntime_graph import Graph, Node, Value, model_of, read
from sparsec.native.as_onnx import PROVIDER
from sparsec.native.model_file import model_bytes
from sparsec.native.operator_library import onnxruntime_library
from sparsec.native.types import TYPES
from sparsec.passes import contributed, quantized
from sparsec.target import machine_features, machine_name

LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "ConvInteger", "MatMulInteger", "QLinearConv",
                    "QLinearMatMul", "LSTM", "GRU", "RNN", "FusedConv", "FusedMatMul", "FusedGemm", "QGemm",
                    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "Attention", "QAttention"})
"""Operators that multiply by a constant weight; a part without one is not worth a call."""
NAME = "sparsec"
"""Under which the plugin is registered."""
FIRST_VERSION = (1, 23)
_REGISTERED = threading.Lock()
_made = threading.local()
"""By the names that its nodes make, the file of each part that this thread's session has been divided into."""

_Take = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
_Check = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, _Take, ctypes.c_void_p)
_Divide = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p,
                           ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, _Take, ctypes.c_void_p)
_Compile = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, _Take, ctypes.c_void_p)


class _Compiler(ctypes.Structure):
    """`sparsec_compiler` of native/sources/src/onnxruntime/provider.hpp."""

    _fields_ = (("check", _Check), ("divide", _Divide), ("compile", _Compile))


def register_onnxruntime(library: str | os.PathLike[str] | None = None) -> list[Any]:
    """Register the execution provider with onnxruntime, once in a process, and let it compile.

    Args:
        library: the plugin, as a bundle's project builds it; `onnxruntime_library()` if not given.

    Returns:
        Its devices, for `SessionOptions.add_provider_for_devices(devices, options)`.

    Raises:
        ToolchainError: onnxruntime is older than 1.23, or no C++ compiler is installed to build the plugin by.

    """
    onnxruntime = ort.load()
    found = onnxruntime.__version__
    if tuple(map(int, found.split(".")[:2])) < FIRST_VERSION:
        raise ToolchainError(f"plugin execution providers need onnxruntime 1.23 or newer, and {found} is installed; "
                             "`sparsec compile --as-onnx` writes models for older ones")
    with _REGISTERED:
        devices = _devices(onnxruntime)
        if not devices:
            path = onnxruntime_library() if library is None else os.fspath(library)
            onnxruntime.register_execution_provider_library(NAME, path)
            ctypes.CDLL(path).sparsec_set_compiler(ctypes.byref(_COMPILER))
            devices = _devices(onnxruntime)
    return devices


def _devices(onnxruntime: Any) -> list[Any]:
    return [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]


def _guarded(function: Callable[[], None], take: Any, into: int) -> int:
    """Run, giving the reason to `take` where it fails: C++ calls this."""
    try:
        function()
    except Exception as error:  # noqa: BLE001 - nothing passes through C++
        text = str(error).encode()
        take(into, text, len(text))
        return 1
    return 0


def _check(options: bytes, take: Any, into: int) -> int:
    def checked() -> None:
        given = _options(options)
        _chosen(given)
        _folder(given)

    return _guarded(checked, take, into)


def _divide(table: int, graph: int, options: bytes, parts: Any, count: int, take: Any, into: int) -> int:
    def divided() -> None:
        whole, given = read(table, graph), _options(options)
        _made.files, _made.told = {}, False
        for number, places in enumerate(_parts(whole)):
            nodes = [whole.nodes[place] for place in places]
            made = _compiled(whole, nodes, given)
            if made is not None:
                _made.files[_key(nodes)] = made
                for place in places:
                    parts[place] = number

    assert count >= 0
    failed = _guarded(divided, take, into)
    if failed:  # onnxruntime itself only logs it
        warnings.warn("sparsec's execution provider takes no part of the model, since reading it failed; the log of "
                      "onnxruntime has the reason", stacklevel=2)
    return failed


def _compile(table: int, graph: int, options: bytes, take: Any, into: int) -> int:  # noqa: ARG001 - C++'s signature
    def compiled() -> None:
        made = _made.files.pop(_key(read(table, graph).nodes))
        take(into, made, len(made))

    return _guarded(compiled, take, into)


_COMPILER = _Compiler(_Check(_check), _Divide(_divide), _Compile(_compile))


def _key(nodes: Sequence[Node]) -> frozenset[str]:
    return frozenset(value.name for node in nodes for value in node.outputs if value is not None)


def _options(lines: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines.decode().splitlines())


def _parts(graph: Graph) -> Iterator[list[int]]:
    """The places of the nodes of every part, in order.

    A node's level counts how often the paths to it change between nodes that are taken and others: those of one level
    have no other node on a path between them. What follows from constants alone, as weights that are stored as codes,
    has the level of the first node that reads it.
    """
    taken = [_known(node) for node in graph.nodes]
    makers = {name: place for place, node in enumerate(graph.nodes) for name in _key([node])}
    before = [[makers[value.name] for value in node.inputs if value is not None and value.name in makers]
              for node in graph.nodes]
    fixed = _fixed(graph)
    levels: list[int] = []
    for place in range(len(graph.nodes)):
        levels.append(max((levels[each] + (taken[each] != taken[place]) for each in before[place]), default=0))
    for place in reversed(range(len(graph.nodes))):
        if _key([graph.nodes[place]]) <= fixed:
            levels[place] = min((levels[each] for each, read in enumerate(before) if place in read),
                                default=levels[place])
    for level in sorted(set(levels)):
        places = [place for place, each in enumerate(levels) if each == level and taken[place]]
        if any(graph.nodes[place].proto.op_type in LAYERS and any(
                value is not None and (value.constant is not None or value.name in fixed)
                for value in graph.nodes[place].inputs[1:]) for place in places):
            yield places


def _fixed(graph: Graph) -> set[str]:
    """The values that nodes make of constants alone."""
    found: set[str] = set()
    for node in graph.nodes:
        given = [value for value in node.inputs if value is not None]
        if given and all(value.constant is not None or value.name in found for value in given):
            found |= _key([node])
    return found


def _known(node: Node) -> bool:
    """Whether sparsec's compiler may take a node: of tensors of numbers, of a domain and operator that it reads.

    Outputs as large as values say end a compiled part, which the library of a bundle has none of.
    """
    domain, name = node.proto.domain, node.proto.op_type
    if name in SIZED_BY_VALUES:
        return False
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if node.holds_graphs or any(value.dtype not in TYPES.values() for value in values):
        return False
    return domain == "" or name in contributed.DOMAINS.get(domain, ()) or (domain, name) in quantized.WRITERS


def _compiled(graph: Graph, nodes: Sequence[Node], options: Mapping[str, str]) -> bytes | None:
    """The file of a part; None, with a warning, where sparsec refuses it."""
    inside = _key(nodes)
    read_outside = {value.name for node in graph.nodes if not _key([node]) <= inside for value in node.inputs if value}
    inputs = {value.name: value for node in nodes for value in node.inputs
              if value is not None and value.constant is None and value.name not in inside}
    outputs: list[Value] = [value for node in nodes for value in node.outputs
                            if value is not None and (value.name in graph.outputs or value.name in read_outside)]
    model = model_of(graph, nodes, outputs, list(inputs.values()))
    path = _kept(model, options)
    if path is not None and files.is_own(path):
        return files.read_regular(path)
    _tell(options)
    try:
        made = model_bytes(compile_model(model, **_chosen(options)))
    except SparsecError as error:
        first = nodes[0].proto.name or nodes[0].proto.op_type
        warnings.warn(f"{len(nodes)} nodes from '{first}' on are left to onnxruntime: {error}", stacklevel=2)
        return None
    if path is not None:
        files.write(path, made)
    return made


def _tell(options: Mapping[str, str]) -> None:
    """Say on the standard error, once a session, that it compiles, and how a later one need not."""
    if _made.told:
        return
    _made.told = True
    kept = (f"kept in {options['cache']} for the next" if "cache" in options else
            "the provider's option `cache` names a folder that keeps it")
    sys.stderr.write(f"sparsec: onnxruntime's session compiles its model here, which may take a minute; {kept}, "
                     "`sparsec compile --as-onnx FILE --ep-context` does it beforehand\n")


def _chosen(options: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `sparsec.compile`; raises UsageError where one has no such value."""
    chosen: dict[str, Any] = {"threads": int(options.get("threads", 1)), "precision": options.get("precision"),
                              "tune": options.get("tune", "measure")}
    CompileOptions(**chosen)
    return chosen


def _folder(options: Mapping[str, str]) -> Path | None:
    """The option `cache`."""
    folder = Path(options["cache"]) if "cache" in options else None
    if folder is not None and not folder.is_dir():
        raise UsageError(f"cache='{folder}' is no folder; make it first")
    return folder


def _kept(model: onnx.ModelProto, options: Mapping[str, str]) -> Path | None:
    """Where the option `cache` keeps a part's file: by the model, the options, sparsec's version and the processor."""
    folder = _folder(options)
    if folder is None:
        return None
    about = (sorted(options.items()), importlib.metadata.version("sparsec"), machine_name(), sorted(machine_features()))
    digest = hashlib.sha256(model.SerializeToString(deterministic=True) + repr(about).encode())
    return folder / f"{digest.hexdigest()}.bundle"
