"""Operators in every version, type and shape: ONNX's node tests and onnxruntime's own operators, changed.

A case is a file of numpy's: the model and its inputs. What onnxruntime computes, sparsec computes or refuses by name.
"""

import io
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_cases

import sparsec
from sparsec.graph.compare import relative_error
from sparsec.graph.ort import session
from sparsec.graph.references import run_onnx
from tests.hostile.mutate import NUMBERS
from tests.support.contributed import CASES, network

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL)
TOLERANCES = {np.dtype(np.float16): 2e-2, np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-4}
OPSETS = range(7, 23)  # those that onnxruntime knows
LARGEST = 1 << 16  # elements of an input
NONDETERMINISTIC = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
                    "Multinomial", "Dropout")
SWITCHES = ("keepdims", "interleaved", "ceil_mode", "count_include_pad", "allowzero", "is_causal", "exclusive",
            "reverse", "fmod", "transA", "transB", "training_mode", "sorted", "largest", "align_corners",
            "linear_before_reset")
"""Attributes that are 0 or 1, of which nobody says what another number means."""
SPECIALS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 6e4, -6e4)


def seeds():
    """(model, inputs) of node tests whose inputs are tensors that numpy knows, and of contributed operators."""
    found = [network(*case, 17) for case in CASES.values()]
    for test in node_cases.collect_testcases(None):
        inputs, _ = test.data_sets[0]
        named = [value.name for value in test.model.graph.input]
        known = len(named) == len(inputs) and all(
            isinstance(each, np.ndarray) and each.dtype.kind in "fiub" and each.size <= LARGEST for each in inputs)
        if known and not {node.op_type for node in test.model.graph.node}.intersection(NONDETERMINISTIC):
            found.append((test.model, dict(zip(named, inputs, strict=True))))
    return found


def mutant(rng, cases):
    """A case after up to three changes."""
    model, feeds = rng.choice(cases)
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    feeds = {name: np.array(array) for name, array in feeds.items()}
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        feeds = rng.choice(CHANGES)(rng, proto, feeds)
    buffer = io.BytesIO()
    np.savez(buffer, **{"": np.frombuffer(proto.SerializeToString(), np.uint8)},
             **{f"{number}": array for number, array in enumerate(feeds.values())},
             names=np.frombuffer(json.dumps(list(feeds)).encode(), np.uint8))
    return buffer.getvalue()


def restored(path):
    """The model and inputs of a case's file."""
    with np.load(path) as arrays:
        names = json.loads(arrays["names"].tobytes())
        return onnx.load_from_string(arrays[""].tobytes()), {name: arrays[f"{number}"]
                                                             for number, name in enumerate(names)}


def retype(rng, proto, feeds):
    """All tensors of one type in another."""
    own = [value.type.tensor_type.elem_type for value in proto.graph.input]
    if not own:
        return feeds
    old = rng.choice(own)
    new = rng.choice(FLOATS if old in FLOATS else INTEGERS)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == old:
            value.type.tensor_type.elem_type = new
    for tensor in proto.graph.initializer:
        if tensor.data_type == old:
            tensor.CopyFrom(numpy_helper.from_array(_as(numpy_helper.to_array(tensor), new), tensor.name))
    return {name: _as(array, new) if helper.np_dtype_to_tensor_dtype(array.dtype) == old else array
            for name, array in feeds.items()}


def _as(array, element_type):
    with np.errstate(all="ignore"):
        return array.astype(helper.tensor_dtype_to_np_dtype(element_type))


def mix(rng, proto, feeds):
    """One input in another precision, with a Cast behind it, or without one."""
    value = _any(rng, proto.graph.input)
    if value is None or value.type.tensor_type.elem_type not in FLOATS:
        return feeds
    old, new = value.type.tensor_type.elem_type, rng.choice(FLOATS)
    value.type.tensor_type.elem_type = new
    if rng.random() < 0.8:
        for node in proto.graph.node:
            node.input[:] = [f"{each}.cast" if each == value.name else each for each in node.input]
        proto.graph.node.insert(0, helper.make_node("Cast", [value.name], [f"{value.name}.cast"], to=old))
    return {name: _as(array, new) if name == value.name else array for name, array in feeds.items()}


def version(rng, proto, feeds):
    """Another opset."""
    for entry in proto.opset_import:
        if not entry.domain:
            entry.version = rng.choice(OPSETS)
    proto.ir_version = min(proto.ir_version, 10)
    return feeds


def attribute(rng, proto, feeds):
    """An attribute that is absent, or has another value."""
    node = _any(rng, [node for node in proto.graph.node if node.attribute])
    if node is None:
        return feeds
    place = rng.randrange(len(node.attribute))
    found = node.attribute[place]
    if rng.random() < 0.3:
        del node.attribute[place]
    elif found.type == onnx.AttributeProto.INT:
        others = [found.i + 1, found.i - 1, -found.i, 0, 1, 2, rng.choice(NUMBERS)]
        found.i = rng.choice([0, 1] if found.name in SWITCHES else others)
    elif found.type == onnx.AttributeProto.FLOAT:
        found.f = rng.choice([0.0, -found.f, found.f * 3, 1e-30, 1e30])
    elif found.type == onnx.AttributeProto.INTS and found.ints:
        at = rng.randrange(len(found.ints))
        old = found.ints[at]
        found.ints[at] = rng.choice([old + 1, old - 1, -old, 0, 1, rng.choice(NUMBERS)])
    elif found.type == onnx.AttributeProto.STRING:
        found.s = rng.choice([b"", b"linear", b"constant", b"SAME_UPPER", b"VALID", b"none", b"\xff"])
    return feeds


def resize(rng, proto, feeds):
    """One size in all inputs that have it becomes another, or stays unknown until the run."""
    sizes = [size for array in feeds.values() for size in array.shape]
    if not sizes:
        return feeds
    old, new = rng.choice(sizes), rng.choice([0, 1, 2, 5])
    symbolic = rng.random() < 0.3
    if not symbolic:
        feeds = {name: np.resize(array, tuple(new if size == old else size for size in array.shape))
                 for name, array in feeds.items()}
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == old and symbolic:
                dim.dim_param = "n"
            elif dim.dim_value == old:
                dim.dim_value = new
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return feeds


def specials(rng, proto, feeds):
    """Values that are none among the floats."""
    for array in feeds.values():
        if array.dtype.kind == "f" and array.size and rng.random() < 0.7:
            with np.errstate(all="ignore"):
                array.reshape(-1)[rng.randrange(array.size)] = rng.choice(SPECIALS)
    return feeds


def constant(rng, proto, feeds):
    """An input that is a constant."""
    value = _any(rng, proto.graph.input)
    if value is None or value.name not in feeds:
        return feeds
    proto.graph.initializer.append(numpy_helper.from_array(feeds[value.name], value.name))
    proto.graph.input.remove(value)
    return {name: array for name, array in feeds.items() if name != value.name}


def absent(rng, proto, feeds):
    """An input that a node does without."""
    node = _any(rng, proto.graph.node)
    if node is not None and node.input:
        node.input[rng.randrange(len(node.input))] = ""
    return feeds


def behind(rng, proto, feeds):
    """An operator behind an output."""
    value = _any(rng, proto.graph.output)
    if value is None or value.type.tensor_type.elem_type not in FLOATS:
        return feeds
    kind = rng.choice(["Relu", "Softmax", "Neg", "Transpose", "Flatten", "ReduceMax", "Cast"])
    name = f"{value.name}.behind"
    proto.graph.node.append(helper.make_node(kind, [value.name], [name], **({"to": 1} if kind == "Cast" else {})))
    value.name = name
    value.type.tensor_type.ClearField("shape")
    if kind == "Cast":
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return feeds


def _any(rng, sequence):
    return rng.choice(list(sequence)) if len(sequence) else None


CHANGES = (retype, retype, mix, version, version, attribute, attribute, resize, specials, constant, absent, behind)


def read(path, aside):
    """Compile the case; what runs in onnxruntime must be right."""
    proto, feeds = restored(path)
    aside(True)
    try:
        expected = session(proto, 1).run(None, feeds)
    except Exception:  # noqa: BLE001 - the model is none that onnxruntime takes
        expected = None
    aside(False)
    artifact = sparsec.compile(proto, tune="off", verify=expected is not None and all(_filled(e) for e in expected))
    opened = sparsec.InferenceSession(artifact)
    outputs = opened.run(None, {info.name: feeds[info.name] for info in opened.get_inputs()})
    values = zip(opened.get_outputs(), outputs, expected or outputs, strict=True)
    wrong = [(value, output, wanted) for value, output, wanted in values if not agree(output, wanted)]
    odd = any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in feeds.values())
    if wrong and not odd:  # tests/numbers knows who is right about those
        for (value, output, wanted), again in zip(wrong, reference(proto, feeds, [each for each, *_ in wrong]),
                                                  strict=True):
            assert agree(output, again), (value, output, wanted, again)


def _filled(output):
    """Whether an output has elements; a sequence is compared by its tensors."""
    return all(map(_filled, output)) if isinstance(output, list) else bool(np.size(output))


def agree(output, wanted):
    """Whether an output is as expected, to the precision of its type; of a sequence every tensor."""
    if isinstance(wanted, list):
        return isinstance(output, list) and len(output) == len(wanted) and all(map(agree, output, wanted))
    wanted = np.asarray(wanted)
    return output.dtype == wanted.dtype and relative_error(output, wanted) <= TOLERANCES.get(wanted.dtype, 1e-2)


def reference(proto, feeds, values):
    """The outputs of ONNX's reference implementation, which decides where onnxruntime deviates from ONNX."""
    try:
        found = dict(zip([value.name for value in proto.graph.output], run_onnx(proto, feeds), strict=True))
    except Exception:  # noqa: BLE001 - it does not know the operator
        found = {}
    return [found.get(value.name, np.array([])) for value in values]
