"""Reading an ONNX model into onnx-ir with static shapes and constants as initializers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveInitializersFromInputsPass

from sparsec import files
from sparsec.errors import ModelError, ShapeError, SparsecError, UnsupportedOperatorError, UsageError
from sparsec.graph import faults, functions, implied, interface, large, lenient, older, sequences, sparse
from sparsec.graph.archives import check_no_archive
from sparsec.graph.constants import add_constant
from sparsec.graph.limits import check_nodes
from sparsec.graph.proto import follow_links
from sparsec.graph.quiet import quiet
from sparsec.graph.schemas import check_inputs, check_types, check_words
from sparsec.graph.shapes import bind, static_shape
from sparsec.graph.verify import check, infer

OLDEST_OPSET = 7
OPSET = 20  # has LayerNormalization and Gelu, and every current runtime executes it
SAME_SINCE = 13  # what operators mean has not changed since, only how some of their parameters are given
IR_VERSION = 10  # the first that opset 20 and 21 may appear in

LONG_DOMAIN = "ai.onnx"
"""Another name of ONNX's own domain; onnx-ir shortens it at nodes, not where opsets are named."""

LOOP_INPUTS = 2
"""The number of trips and the condition of a Loop, both optional."""

BEFORE_ONNX = dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization"), "com.microsoft")
"""Operators that onnxruntime's optimiser writes as ONNX's into models of opsets that do not define them."""

Source = str | Path | bytes | onnx.ModelProto


def load(source: Source, *, shapes: Mapping[str, Sequence[int]] | None = None, symbolic: bool = False,
         dims: Mapping[str, int] | None = None, as_is: bool = False) -> ir.Model:
    """Reads a model of opset 7 or newer: a path, the bytes of a file, or a ModelProto (which stays unchanged).

    The result has static input shapes, inferred shapes wherever ONNX can infer them, no local functions, constants and
    sparse tensors as dense initializers (see `sparse.SPARSE_KEY`), and none of these among its inputs. Models below
    opset 20 are converted to it; one that ONNX's converter cannot convert keeps its own opset. Weights in external
    files are mapped, not read.

    Args:
        source: what to read; external data is looked up beside a path and must not lie outside its folder.
        shapes: for inputs with symbolic dimensions, the full shape by input name.
        symbolic: dimensions that neither `shapes` nor `dims` bind may stay symbolic.
        dims: sizes of symbols.
        as_is: keep the model's opset, if that is not older than `SAME_SINCE`.

    Raises:
        ModelError: not an ONNX model, damaged, of an unsupported opset, or external data is missing.
        ShapeError: an input dimension is unbound, or `shapes` does not fit the model.
        UnsupportedOperatorError: nodes of ONNX's own domain that its opset does not define.

    """
    if not isinstance(source, str | Path | bytes | onnx.ModelProto):
        raise UsageError(f"model is of type {type(source).__name__}; give a path, the bytes of an ONNX file or a "
                         "ModelProto")
    where = str(source) if isinstance(source, str | Path) else "the model"
    try:
        return _load(source, where, shapes or {}, dims or {}, symbolic=symbolic, as_is=as_is)
    except ShapeError:
        raise
    except ModelError as error:
        if (shapes or dims) and _is_well(source, where):
            raise ShapeError(f"{where}: {_sizes(shapes or {}, dims or {})} does not fit the network: "
                             f"{_fault(error, where)}") from error
        raise
    except SparsecError:
        raise
    except MemoryError as error:
        raise ModelError(f"{where}: reading it takes more memory than this process may have; raise its limit, or give "
                         "sparse tensors dense") from error
    except Exception as error:  # what the ONNX packages raise on a malformed graph has no common base
        raise ModelError(f"{where}: damaged ONNX model: {_root(error)}; export it again") from error


def _is_well(source: Source, where: str) -> bool:
    """Whether the model can be read with its dimensions symbolic."""
    try:
        _load(source, where, {}, {}, symbolic=True)
    except SparsecError:
        return False
    return True


def _sizes(shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int]) -> str:
    """The sizes given, as texts that the command line takes."""
    texts = [f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items()]
    return " with ".join([*texts, *(f"{name}={size}" for name, size in dims.items())])


def _fault(error: ModelError, where: str) -> str:
    """What an error says of the nodes."""
    text = str(error).removeprefix(f"{where}: ").removeprefix("not a valid ONNX graph: ")
    return re.sub(r"\[ShapeInferenceError\] (Inference error\(s\): )?", "", text)


def _load(source: Source, where: str, shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int], *,
          symbolic: bool, as_is: bool = False) -> ir.Model:
    proto = _parse(source, where)
    try:
        check_nodes(proto)
        lenient.check_kinds(proto)
        _check_names(proto)
    except (ModelError, UnsupportedOperatorError) as error:
        raise type(error)(f"{where}: {error}") from error
    base_dir = Path(source).resolve().parent if isinstance(source, str | Path) else None
    try:
        if isinstance(source, str | Path):
            follow_links(proto, Path(source))
        model, notes = _with_tensors(proto, base_dir, own=proto is not source)
    except ModelError as error:  # of a sparse tensor
        raise ModelError(f"{where}: {error}") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{where}: {' '.join(str(error).split())}; external data must lie complete beside the "
                         "model file, which is passed as a path") from error
    _check_opset(model, where)
    RemoveInitializersFromInputsPass()(model)
    interface.separate(model)
    _give_conditions(model)
    lift_constants = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    functions.inline(model)
    lift_constants(model)
    _check_operators(model, where)
    lenient.settle(model)
    check_words(model, where)
    declared = bind(model, shapes, where, symbolic=symbolic, dims=dims)
    _settle_empty(model)
    sequences.resolve(model)
    infer(model, where, declared)
    if lenient.scalars(model) | lenient.signals(model) | (symbolic and implied.settle(model)):
        infer(model, where, declared)
    check_types(model, where)
    own = model.graph.opset_imports[""]
    if own < (SAME_SINCE if as_is else OPSET) and not _has_batched_scan(model):
        _convert(model)
        lift_constants(model)
        infer(model, where)
    check(model, where)
    for name, note in notes.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].metadata_props[sparse.SPARSE_KEY] = note
    return model


def _check_names(proto: onnx.ModelProto) -> None:
    try:
        faults.check_names(proto)
    except ModelError as error:
        raise ModelError(f"not a valid ONNX graph: {error}; export it again") from error


def _with_tensors(proto: onnx.ModelProto, base_dir: Path | None, *, own: bool) -> tuple[ir.Model, dict[str, str]]:
    """The model with its external and sparse tensors, and notes on the latter by name; `own` models may be changed."""
    taken: dict[str, ir.LazyTensor] = {}
    notes: dict[str, str] = {}
    if sparse.has_sparse(proto):
        if not own:
            given, proto = proto, onnx.ModelProto()
            proto.CopyFrom(given)
        notes |= sparse.notes_of(proto)
        taken = sparse.take_large(proto, base_dir)
        notes |= sparse.densify(proto, base_dir)
    model = ir.from_proto(proto)
    for name, tensor in taken.items():
        model.graph.initializers[name].const_value = tensor
        large.EXTERNAL.set(model.graph.initializers[name], 0)
    _open_external_data(model, base_dir)
    return model, notes


def _root(error: BaseException) -> str:
    """The message of the first cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _parse(source: Source, where: str) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        proto = source
    else:
        try:
            data = source if isinstance(source, bytes) else files.read_regular(source)
        except OSError as error:
            raise ModelError(f"{where}: cannot be read: {error.strerror}; pass the path of an ONNX file") from error
        check_no_archive(where, data)
        try:
            proto = onnx.ModelProto.FromString(data)
        except DecodeError as error:
            # a ModelProto is written in field order and starts with its IR version, field 1
            what = "truncated or damaged" if data[:1] == b"\x08" else "not an ONNX model"
            raise ModelError(f"{where}: {what}; export or copy it again") from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{where}: not an ONNX model; pass a file that an ONNX exporter wrote")
    return proto


def _open_external_data(model: ir.Model, base_dir: Path | None) -> None:
    """Maps every external tensor into memory, or has large ones read one by one.

    Raises OSError or ValueError where a file is missing, too short or outside of the model's folder.
    """
    if base_dir is not None:
        ir.external_data.set_base_dir(model.graph, base_dir)
    tensors = {value: value.const_value for value in model.graph.initializers.values()
               if isinstance(value.const_value, ir.ExternalTensor)}
    if base_dir is not None:
        _check_lengths(tensors.values(), base_dir)
    one_by_one = sum(tensor.nbytes for tensor in tensors.values()) > large.LARGE_BYTES
    for value, tensor in tensors.items():
        if base_dir is None:
            raise ValueError(f"'{value.name}' lies in external file '{tensor.location}'")
        array = tensor.numpy()
        large.EXTERNAL.set(value, tensor.offset or 0)
        if one_by_one and tensor.nbytes > large.SMALL_BYTES and array.nbytes == tensor.nbytes:
            value.const_value = large.in_file(tensor, Path(tensor.path).resolve())
            del array
            tensor.release()
        else:
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def _check_lengths(tensors: Iterable[ir.ExternalTensor], base_dir: Path) -> None:
    """Raises ValueError where a file is missing or ends before its last tensor does, OSError where it is no file."""
    ends: dict[str, int] = {}
    for tensor in tensors:
        ends[str(tensor.location)] = max(ends.get(str(tensor.location), 0), (tensor.offset or 0) + tensor.nbytes)
    for location, end in ends.items():
        if not (base_dir / location).exists():
            raise ValueError(f"external file '{location}' is missing")
        size = files.check_regular(base_dir / location).st_size  # a pipe would be waited for
        if size < end:
            raise ValueError(f"external file '{location}' has {size:,} bytes where its tensors take {end:,}")


def _check_opset(model: ir.Model, where: str) -> None:
    imports = model.graph.opset_imports
    if LONG_DOMAIN in imports:
        imports.setdefault("", imports.pop(LONG_DOMAIN))
    version, newest = imports.get(""), onnx.defs.onnx_opset_version()
    if version is None and any(node.domain == "" for node in model.graph.all_nodes()):
        raise ModelError(f"{where}: names no opset of ONNX, it may be truncated; copy or export it again")
    version = imports.setdefault("", OPSET)
    if version < OLDEST_OPSET:
        raise ModelError(f"{where}: opset {version} is older than {OLDEST_OPSET}; "
                         f"convert it with onnx.version_converter or export it again")
    if version > newest:
        raise ModelError(f"{where}: opset {version} is newer than {newest}, the newest that the installed onnx package "
                         "knows; upgrade onnx or export with an older opset")


def _check_operators(model: ir.Model, where: str) -> None:
    """Raises UnsupportedOperatorError where a node's opset does not define it; onnxruntime's go to its own domain."""
    version = model.graph.opset_imports[""]
    for node in model.graph.all_nodes():
        if node.domain == "" and node.op_type in BEFORE_ONNX and not onnx.defs.has(node.op_type, version):
            node.domain = BEFORE_ONNX[node.op_type]
            model.opset_imports.setdefault(node.domain, 1)
    unknown = [f"'{node.name}' ({node.op_type})" for node in model.graph.all_nodes()
               if node.domain == "" and not onnx.defs.has(node.op_type, version)]
    if unknown:
        raise UnsupportedOperatorError(f"{where}: opset {version} of ONNX has no such operators: {', '.join(unknown)}; "
                                       "export the model with standard operators")
    check_inputs(model, where)


def _give_conditions(model: ir.Model) -> None:
    """Loops without a condition get one that is true: trailing inputs that are absent do not last."""
    condition = None
    for node in model.graph.all_nodes():
        if node.op_type == "Loop" and node.domain == "" and (len(node.inputs) < LOOP_INPUTS or node.inputs[1] is None):
            condition = condition or add_constant(model.graph, "loop.condition", np.array(True))
            node.resize_inputs(max(LOOP_INPUTS, len(node.inputs)))
            node.replace_input_with(1, condition)


def _settle_empty(model: ir.Model) -> None:
    """Vectors of no integers are constants, though they are inputs: what has them for its axes has a known rank."""
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.INT64 and static_shape(value) == (0,) and value.uses():
            constant = add_constant(model.graph, f"{value.name}.empty", np.zeros(0, np.int64))
            for node, index in tuple(value.uses()):
                node.replace_input_with(index, constant)


def _has_batched_scan(model: ir.Model) -> bool:
    """Whether there is a Scan of opset 8, with a batch axis: the converter takes it for a newer one, without."""
    return model.graph.opset_imports[""] < 9 and any(node.op_type == "Scan" for node in model.graph.all_nodes())


def _convert(model: ir.Model) -> None:
    from onnxscript import version_converter

    finish = older.preserve(model)
    with quiet():
        version_converter.convert_version(model, OPSET, fallback=True)
    finish()
    sequences.tell_types(model)
    model.ir_version = max(model.ir_version, IR_VERSION)
