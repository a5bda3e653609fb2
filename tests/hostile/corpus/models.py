"""Malformed models: name -> (the file, what the error must say)."""

import itertools

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.support.texts import model

LINEAR = "g (float[2,4] x) => (float[2,3] y) <float[4,3] w, float[3] b> { h = MatMul(x, w) y = Add(h, b) }"
IMAGE = "g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w> { y = Conv(x, w) }"


def edited(change, text=LINEAR):
    """The file of a valid model after a change to its proto."""
    proto = model(text)
    change(proto)
    return proto.SerializeToString()


def set_initializer(proto, **fields):
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if isinstance(value, list):
            del getattr(tensor, name)[:]
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)


def external(location, **entries):
    """A model whose weight is said to lie in a file."""
    def change(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)
    return edited(change)


def sparse(values, indices, dims):
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), "w"),
        numpy_helper.from_array(np.array(indices, np.int64), "i"), dims))
    return proto.SerializeToString()


def swap_nodes(proto):
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def recursive_function(proto):
    proto.functions.append(helper.make_function(
        "local", "twice", ["a"], ["b"], [helper.make_node("twice", ["a"], ["b"], domain="local")],
        [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]))
    proto.graph.node[0].CopyFrom(helper.make_node("twice", ["x"], ["h"], domain="local"))


def nested(depth):
    """Graphs as attributes of nodes of graphs, deeper than protobuf reads."""
    data = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = bytes([field << 3 | 2]) + varint(len(data)) + data
    return b"\x08\x08\x3a" + varint(len(data)) + data


def varint(number):
    head, last = [], number
    while last > 127:
        head.append(last & 127 | 128)
        last >>= 7
    return bytes([*head, last])


def calls(depth):
    """Functions that each call the next one twice."""
    def change(proto):
        for level in range(depth):
            body = [helper.make_node(f"f{level + 1}", ["a"], ["m"], domain="l"),
                    helper.make_node(f"f{level + 1}", ["m"], ["b"], domain="l")]
            last = [helper.make_node("Relu", ["a"], ["b"])]
            proto.functions.append(helper.make_function("l", f"f{level}", ["a"], ["b"],
                                                        body if level < depth - 1 else last,
                                                        [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]))
        proto.opset_import.append(helper.make_opsetid("l", 1))
        proto.graph.node[0].CopyFrom(helper.make_node("f0", ["x"], ["h"], domain="l"))
    return edited(change)


def many_sparse(count):
    proto = model("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    for number in range(count):
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(1, np.float32), f"w{number}"),
            numpy_helper.from_array(np.zeros(1, np.int64), f"i{number}"), [1 << 12, 1 << 12]))
    return proto.SerializeToString()


def chain(length):
    def change(proto):
        del proto.graph.node[:]
        names = ["x", *(f"v{number}" for number in range(length - 1)), "y"]
        proto.graph.node.extend(helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names))
    return edited(change)


def renamed(name):
    return edited(lambda p: setattr(p.graph.node[0], "op_type", name))


def text(graph, opset=17):
    return model(graph, opset).SerializeToString()


MODELS = {
    "empty": (b"", "not an ONNX model"),
    "text": (b"model: onnx\n", "not an ONNX model"),
    "zip": (b"PK\x03\x04rest", "not an ONNX model"),
    "only a version": (b"\x08\x08", "not an ONNX model"),
    "cut in half": (edited(lambda _: None)[:150], "truncated or damaged"),
    "length beyond the end": (b"\x08\x08:\xff\xff\xff\xff\x0f", "truncated or damaged"),
    "no graph": (edited(lambda p: p.ClearField("graph")), "not an ONNX model"),
    "no opset": (edited(lambda p: p.ClearField("opset_import")), "names no opset"),
    "opset 0": (edited(lambda p: setattr(p.opset_import[0], "version", 0)), "opset 0 is older"),
    "negative opset": (edited(lambda p: setattr(p.opset_import[0], "version", -5)), "opset -5 is older"),
    "opset of the future": (edited(lambda p: setattr(p.opset_import[0], "version", 2**62)), "newer than"),
    "unknown operator": (edited(lambda p: setattr(p.graph.node[0], "op_type", "MatMull")), "no such .*MatMull"),
    "operator without a name": (edited(lambda p: setattr(p.graph.node[0], "op_type", "")), "no such operators"),
    "operator that is no text": (edited(lambda _: None).replace(b"MatMul", b"Mat\xff\xfel"), "damaged ONNX model"),
    "too many inputs": (edited(lambda p: p.graph.node[0].input.append("b")),
                        r"node .* \(MatMul\) has 3 inputs, and not 2"),
    "too few inputs": (edited(lambda p: p.graph.node[1].input.pop()), "not a valid ONNX graph"),
    "undefined value": (edited(lambda p: p.graph.node[0].input.__setitem__(0, "z")), "reads 'z', which nothing"),
    "value computed twice": (edited(lambda p: p.graph.node[1].output.__setitem__(0, "h")),
                             "the name 'h', which another"),
    "nodes out of order": (edited(swap_nodes), "which nothing before it gives"),
    "cycle": (edited(lambda p: p.graph.node[0].input.__setitem__(0, "y")), "not a valid ONNX graph"),
    "recursive function": (edited(recursive_function), "[Rr]ecurs|cyclic|twice"),
    "output that nobody computes": (edited(lambda p: setattr(p.graph.output[0], "name", "q")),
                                    "its output 'q' is computed by no node"),
    "input without a type": (edited(lambda p: p.graph.input[0].ClearField("type")), "its input 'x' has no type"),
    "input of no element type": (edited(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 0)),
                                 "its input 'x' has no type"),
    "negative dimension": (edited(lambda p: setattr(
        p.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -2)), "x"),
    "sizes that do not fit": (edited(lambda p: setattr(
        p.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 5)), "MatMul"),
    "weight of negative size": (edited(lambda p: set_initializer(p, dims=[-4, 3])), "damaged|not a valid"),
    "weight larger than its data": (edited(lambda p: set_initializer(p, dims=[2**40, 2**20])), "damaged|not a valid"),
    "weight whose size overflows": (edited(lambda p: set_initializer(p, dims=[2**62, 2**62])), "damaged|not a valid"),
    "weight with half its data": (edited(lambda p: set_initializer(p, raw_data=b"1234")), "damaged|not a valid"),
    "weight of an unknown type": (edited(lambda p: set_initializer(p, data_type=99)),
                                  "element type 99, which there is not"),
    "dilation 0": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("dilations", [0, 1])), IMAGE), "not a valid ONNX graph"),
    "stride 0": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("strides", [0, 0])), IMAGE), r"\(Conv\): Attribute strides must"),
    "padding of another rank": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("pads", [1, 1, 1])), IMAGE), "not a valid ONNX graph"),
    "node without outputs": (edited(lambda p: p.graph.node[0].ClearField("output")), "has no outputs"),
    "attribute of no type": (edited(lambda p: p.graph.node[0].attribute.append(
        AttributeProto(name="pads")), IMAGE), "attribute 'pads' of .* has no type"),
    "unknown attribute": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("colour", 1)), IMAGE), r"node '.*' \(Conv\) has no attribute 'colour'"),
    "initializer without a name": (edited(lambda p: set_initializer(p, name="")), "initializers has no name"),
    "attribute of another type": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("group", "two")), IMAGE), "damaged|not a valid"),
    "groups that do not divide the channels": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("group", 3)), IMAGE), r"node '' \(Conv\).* do not divide into 3 group"),
    "no groups at all": (edited(lambda p: p.graph.node[0].attribute.append(
        helper.make_attribute("group", 0)), IMAGE), "do not divide into 0 group"),
    "slope that does not broadcast": (edited(
        lambda _: None, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] w> { y = PRelu(x, w) }"),
        r"\(PRelu\): its slope of shape \(3,\) does not broadcast"),
    "external file above": (external("../secret"), "external data must lie complete beside"),
    "external file at the root": (external("/etc/hostname"), "external data must lie complete beside"),
    "external file by a link": (external("link"), "external data must lie complete beside"),
    "external file that is a directory": (external("."), "external data must lie complete beside"),
    "external file that is missing": (external("nothing.bin"), "external data must lie complete beside"),
    "external offset beyond the end": (external("weights.bin", offset="999999"), "external data must lie complete"),
    "external offset below 0": (external("weights.bin", offset="-8"), "external data must lie complete|damaged"),
    "external length that is no number": (external("weights.bin", length="many"), "external data must lie|damaged"),
    "sparse index outside": (sparse([1, 2], [3, 12], [4, 3]), "outside shape"),
    "sparse index below 0": (sparse([1, 2], [-1, 3], [4, 3]), "outside shape"),
    "sparse indices of another length": (sparse([1, 2], [1, 2, 3], [4, 3]), "fit neither form"),
    "sparse bomb": (sparse([1], [0], [2**20, 2**20]), "64 times the size"),
    "nested graphs": (nested(1000), "truncated or damaged"),
    "functions that call each other twice": (calls(30), "functions are called 1073741823 times"),
    "functions that call each other often": (calls(13), "functions are called 8191 times"),
    "an input that its operator needs": (edited(lambda p: p.graph.node[0].CopyFrom(helper.make_node(
        "EyeLike", [""], ["h"], dtype=1))), "lacks its input 0"),
    "a reshape to more elements": (model(
        "g (float[2,2,4] x) => (float[2,12] y) <int64[2] s = {2, 12}> { y = Reshape(x, s) }").SerializeToString(),
        "of another number of elements|not a valid"),
    "many sparse tensors": (many_sparse(40), "sparse tensors before it takes over"),
    "100,000 nodes": (chain(100_000), "100000 nodes"),
    "an operator that rewrites the screen": (renamed("Mat\x1b[2J\nMul"), r"no such .*Mat\\x1b\[2J\\nMul"),
    "an operator named from right to left": (renamed("\u202eluM"), r"no such .*\\u202eluM"),
    "an external pipe": (external("pipe"), "external data must lie complete beside"),
    "types that an operator does not take": (text(
        "g (bool[2] x, bool[2] z) => (bool[2] y) { y = LessOrEqual(x, z) }"), r"takes no tensor\(bool\)"),
    "types that do not go together": (text(
        "g (float[2] x, double[2] z) => (float[2] y) { y = Add(x, z) }"), "inconsistent type|takes no tensor"),
    "a word that there is not": (text(
        'g (float[1,1,2,2] x, float[1,2,2,2] z) => (float[1,1,2,2] y) { y = GridSample<mode="best">(x, z) }'),
        "has the mode 'best'; it is one of linear"),
    "a type that there is not": (text("g (float[2] x) => (float[2] y) { c = Cast<to=0>(x) y = Identity(c) }"),
                                "gives the element type 0"),
    "an axis that there is not": (text(
        "g (float[2,3] x) => (float[2,3] y) { y = Softmax<axis=9223372036854775807>(x) }"),
        "its axis is 9223372036854775807, and its input has 2|not a valid"),
    "a window larger than its image": (text(
        "g (float[1,1,4] x) => (float[1,1,n] y) { y = AveragePool<kernel_shape=[9], ceil_mode=1>(x) }"),
        "would have the shape|not a valid"),
    "a tensor of 2^40 elements": (text(
        "g (float[2] x) => (float[n,m] y) <int64[2] s = {1048576, 1048576}> { y = Expand(x, s) }"),
        "1099511627776 elements|not a valid"),
    "a stride beyond every image": (text(
        "g (float[1,1,4] x) => (float[1,1,1] y) { y = MaxPool<kernel_shape=[1], strides=[9223372036854775807]>(x) }"),
        "its strides are beyond 2147483647"),
    "groups that do not divide what is normalised": (text(
        "g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4] s, float[4] b> "
        "{ y = GroupNormalization<num_groups=3>(x, s, b) }", 21), "its 4 channels do not divide into 3 groups"),
    "a running sum along no axis": (text(
        "g (float[2,3] x) => (float[2,3] y) <int64 a = {9}> { y = CumSum(x, a) }"),
        "its axis is 9, and its input has 2"),
    "channels that do not divide into blocks": (text(
        "g (float[1,3,2,2] x) => (float[1,n,4,4] y) { y = DepthToSpace<blocksize=2>(x) }"),
        "its 3 channels do not divide into blocks of 2 x 2|not a valid"),
}
EXPANDING = {
    "ConstantOfShape": "int64[1] n = {1073741824}> { c = ConstantOfShape(n) i = ReduceMax<keepdims=0>(c)",
    "Expand": "int64[2] n = {32768, 32768}, float[1] v = {1}> { c = Expand(v, n) i = ReduceMax<keepdims=0>(c)",
    "Tile": "int64[1] n = {1073741824}, float[1] v = {1}> { c = Tile(v, n) i = ReduceMax<keepdims=0>(c)",
    "Range": "float a = {0}, float b = {1073741824}, float d = {1}> { c = Range(a, b, d) "
             "i = ReduceMax<keepdims=0>(c)",
    "OneHot": "int64[1] k = {0}, int64[1] n = {1073741824}, float[2] v = {0, 1}> { c = OneHot(k, n, v) "
              "i = ReduceMax<keepdims=0>(c)",
    "Resize": "float[1,1] v = {1}, float[2] n = {32768, 32768}> { c = Resize(v, , n) i = ReduceMax<keepdims=0>(c)",
    "Pad": "int64[2] n = {0, 1073741824}, float[1] v = {1}> { c = Pad(v, n) i = ReduceMax<keepdims=0>(c)",
}


def expanding(kind):
    """A model of few bytes with a constant of 4 GB."""
    return model(f"g (float[2,4] x) => (float[2,4] y) <{EXPANDING[kind]} y = Add(x, i) }}").SerializeToString()
