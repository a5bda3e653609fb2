"""Sizes in symbols: sums, products and quotients agree with numbers, and shapes follow the arithmetic on them."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from sparsec.analysis.symbols.fixed import fixed_by_file
from sparsec.analysis.symbols.inference import infer_symbols
from sparsec.analysis.symbols.size import Size, declared
from sparsec.graph import reader

NAMES = ("batch", "past", "tokens")
SIZES = st.recursive(st.integers(-9, 9).map(Size.of) | st.sampled_from(NAMES).map(Size.of), lambda inner: st.tuples(
    st.sampled_from([Size.__add__, Size.__sub__, Size.__mul__]), inner, inner).map(lambda each: each[0](*each[1:])),
    max_leaves=6)
NUMBERS = st.fixed_dictionaries({name: st.integers(0, 50) for name in NAMES})


@given(SIZES, SIZES, NUMBERS)
def test_sizes_compute_as_their_numbers_do(left, right, numbers):
    a, b = left.value(numbers), right.value(numbers)
    assert (left + right).value(numbers) == a + b
    assert (left - right).value(numbers) == a - b
    assert (left * right).value(numbers) == a * b
    assert (left + right) == (right + left)
    quotient = (left * right).divided(right)
    assert quotient is None or b == 0 or quotient.value(numbers) == a


def test_names_of_sums_are_sums():
    assert declared("past + tokens", {"past", "tokens"}) == Size.of("tokens") + Size.of("past")
    assert declared("past + other", {"past"}) == Size.of("past + other")
    assert str(declared("past + 1", {"past"})) == "past + 1"


SHAPES = {
    "cache": ("float[B,4,P,8] c, float[B,4,T,8] x", "y = Concat<axis=2>(c, x)", ["B", 4, "P+T", 8]),
    "heads": ("float[B,T,12] x", """s = Shape<start=0, end=2>(x) h = Constant<value_ints=[3, 4]>()
              t = Concat<axis=0>(s, h) r = Reshape(x, t) y = Transpose<perm=[0, 2, 1, 3]>(r)""", ["B", 3, "T", 4]),
    "rest": ("float[B,T,12] x", "t = Constant<value_ints=[-1, 12]>() y = Reshape(x, t)", ["B*T", 12]),
    "positions": ("float[P,2] c, float[T,2] x", """z = Constant<value_int=0>() o = Constant<value_int=1>()
                  p = Shape(c) p0 = Gather(p, z) t = Shape(x) t0 = Gather(t, z) e = Add(p0, t0)
                  y = Range(p0, e, o)""", ["T"]),
    "part": ("float[T,9] x", """s = Constant<value_ints=[2]>() e = Constant<value_ints=[5]>()
             a = Constant<value_ints=[1]>() y = Slice(x, s, e, a)""", ["T", 3]),
    "places": ("float[B,T,3] x, float[9,3] w", """s = Shape(x) o = Constant<value_ints=[1]>() e = Gather(s, o)
               z = Constant<value_ints=[0]>() p = Slice(w, z, e, z) y = Add(x, p)""", ["B", "T", 3]),
    "kinds of places": ("float[B,T] x, float[1,9] w", """s = Shape(x) o = Constant<value_ints=[1]>() e = Gather(s, o)
                        z = Constant<value_ints=[0]>() c = Constant<value = int64[1,9] {0,1,2,3,4,5,6,7,8}>()
                        p = Slice(c, z, e, o) k = GatherElements<axis=1>(w, p) y = Add(x, k)""", ["B", "T"]),
    "scores": ("float[B,T,8] q, float[B,8,P] k", "y = MatMul(q, k)", ["B", "T", "P"]),
    "largest": ("float[B,T,9] x", """k = Constant<value_ints=[4]>() a, i = TopK<axis=-1>(x, k) b = Cast<to=1>(i)
                y = Add(a, b)""", ["B", "T", 4]),
    "place of the largest": ("float[B,T,9] x", "i = ArgMax<axis=1, keepdims=0>(x) y = Cast<to=1>(i)", ["B", 9]),
    "steps": ("float[T,B,6] x, float[1,12,6] w, float[1,12,3] r", "a, b, y = LSTM<hidden_size=3>(x, w, r)",
              [1, "B", 3]),
    "all steps": ("float[T,B,6] x, float[2,9,6] w, float[2,9,3] r",
                  'y, h = GRU<hidden_size=3, direction="bidirectional">(x, w, r)', ["T", 2, "B", 3]),
    "repeated": ("float[B,T] x", "r = Constant<value_ints=[2, 3]>() y = Tile(x, r)", ["2*B", "3*T"]),
    "padded": ("float[B,T] x", "p = Constant<value_ints=[0, 1, 0, 2]>() y = Pad(x, p)", ["B", "T+3"]),
    "padded in the end": ("float[B,T] x", """p = Constant<value_ints=[0, 2]>() a = Constant<value_ints=[-1]>()
                          y = Pad(x, p, , a)""", ["B", "T+2"]),
    "letters": ("float[B,T,4] q, float[B,P,4] k", 'y = Einsum<equation="btd, bpd -> bpt">(q, k)', ["B", "P", "T"]),
    "pixels": ("float[B,8,P,T] x", "y = DepthToSpace<blocksize=2>(x)", ["B", 2, "2*P", "2*T"]),
    "blocks": ("float[B,2,P,T] x", "y = SpaceToDepth<blocksize=1>(x)", ["B", 2, "P", "T"]),
    "all": ("float[B,T] x", "y = ReduceProd<keepdims=1>(x)", [1, 1]),
    "kinds": ("float[B,T] x", """i = Cast<to=7>(x) d = Constant<value_int=5>() v = Constant<value_floats=[0.0, 1.0]>()
              y = OneHot<axis=1>(i, d, v)""", ["B", 5, "T"]),
    "spread": ("float[T,1] x, float[B,1,P] z", "y = Add(x, z)", ["B", "T", "P"]),
}


@pytest.mark.parametrize(("inputs", "body", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_follow_from_symbols(inputs, body, expected):
    kind = "int64" if "Range" in body else "float"
    rank = ",".join(f"d{axis}" for axis in range(len(expected)))
    header = '<ir_version: 10, opset_import: ["": 20]>'
    model = parser.parse_model(f"{header} g ({inputs}) => ({kind}[{rank}] y) {{ {body} }}")
    graph = reader.load(model, symbolic=True).graph
    found = infer_symbols(graph).shapes[graph.outputs[0]]
    sizes = {"B": 3, "P": 7, "T": 5}
    assert [size.value(sizes) for size in found] == [eval(str(each), {}, sizes) for each in expected]
    feeds = {value.name: np.zeros([size.value(sizes) for size in infer_symbols(graph).shapes[value]], np.float32)
             for value in graph.inputs}
    (actual,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    assert list(actual.shape) == [size.value(sizes) for size in found]


@pytest.mark.parametrize(("target", "fixed"), [
    ("4, 17", {}), ("0, 17", {}), ("-1, 17", {}), ("17, 12", {"T": 17}), ("34, 6", {"T": 17}), ("5, 7", {})])
def test_a_size_that_a_reshape_needs_is_found(target, fixed):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[T,12] x) => (y) {{ s = Constant<value_ints=[{target}]>() y = Reshape(x, s) }}""")
    graph = reader.load(model, symbolic=True).graph
    assert fixed_by_file(graph, infer_symbols(graph)) == fixed
