"""Models whose sizes the run tells, on GPUs: every kernel in the emulator, beside onnxruntime."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsec.backends.cuda import between, products
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import ArtifactError, InputError, UnsupportedOperatorError
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.machine.memory import element_type
from sparsec.report.explain import explain
from sparsec.runtime.sized import device, device_attention
from sparsec.target import resolve
from tests.support.cuda import networks
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
MODEL = networks.symbolic(networks.transformer(), "batch", "sequence")
SIZES = [(1, 1), (1, 7), (2, 16), (1, 100), (3, 2)]


@pytest.fixture(scope="module")
def transformer():
    """What is compiled of the model, and onnxruntime's session."""
    return Compiled(MODEL, "cuda-sm80"), onnxruntime.InferenceSession(MODEL.SerializeToString())


def feeds_of(batch, tokens, seed=0):
    ids = np.random.default_rng(seed).integers(0, 50, (batch, tokens))
    shown = np.arange(tokens)[None] <= tokens // 2 + np.arange(batch)[:, None]
    return {"ids": ids, "mask": shown.astype(np.int64)}


def agree(mine, theirs, error=HALF_PRECISIONS["fp16"]):
    for own, reference in zip(mine, theirs, strict=True):
        assert own.dtype == reference.dtype
        assert own.shape == reference.shape
        assert np.abs(own - reference).max(initial=0) <= error * np.abs(reference).max(initial=0)


@pytest.mark.parametrize(("batch", "tokens"), SIZES)
def test_a_transformer_takes_any_size(transformer, batch, tokens):
    compiled, session = transformer
    for seed in range(2):  # the second call replays what the first has recorded
        feeds = feeds_of(batch, tokens, seed)
        agree(compiled(feeds), session.run(None, feeds))


def test_projections_are_one_product_whose_parts_attention_reads(transformer):
    compiled, _ = transformer
    joined = {row["layer"] for row in compiled.artifact.report["layers"] if row["layer"].endswith(".joined")}
    assert len(joined) == 1
    assert [step["op"] for step in compiled.program.steps].count("rows") == 2  # none between product and attention
    assert not compiled.artifact.report["outside"]


def test_keys_that_a_mask_hides_are_left_out(transformer, monkeypatch):
    monkeypatch.setattr(device_attention, "LISTED_STAGES", {True: 1, False: 1})
    compiled, session = transformer
    compiled.runner = compiled.program.runner()
    for tokens in (9, 200):
        for seed in range(2):
            feeds = feeds_of(2, tokens, seed)
            agree(compiled(feeds), session.run(None, feeds))
    assert {"lists_16_64", "lists_64_64"} <= set(compiled.program._kernels.lowered)


@pytest.mark.parametrize(("shape", "least", "most"), [
    ((1, 32, 1, 4096), 4, 16), ((1, 8, 16, 8192), 8, 64), ((1, 32, 1, 64), 1, 1), ((16, 32, 1, 4096), 1, 1),
    ((1, 12, 512, 512), 1, 4), ((8, 12, 512, 512), 1, 1)])
def test_few_queries_divide_their_keys(shape, least, most):
    about = between._told({128}, "float16", resolve("cuda-sm90"))
    blocks = device_attention.Blocks.of(json.loads(json.dumps(about)), shape, 128, shape[1])
    assert least <= blocks.shares <= most


def test_a_call_of_sizes_that_were_seen_is_one_graph(transformer):
    compiled, session = transformer
    lane = compiled.runner._lane
    compiled(feeds_of(2, 5))
    recorded, replayed = lane.recorded, lane.replayed
    for seed in range(3):
        feeds = feeds_of(2, 5, seed)
        agree(compiled(feeds), session.run(None, feeds))
    assert (lane.recorded, lane.replayed) == (recorded, replayed + 3)


def test_memory_grows_and_few_sizes_are_remembered(transformer, monkeypatch):
    compiled, session = transformer
    monkeypatch.setattr(device, "MOST", 2)
    compiled.runner._take(1 << 12)
    compiled.runner._take_pinned(1 << 8)
    for batch, tokens in ((1, 3), (1, 20), (1, 3), (4, 3), (1, 20)):
        feeds = feeds_of(batch, tokens)
        agree(compiled(feeds), session.run(None, feeds))
        assert len(compiled.runner.tapes) <= 2


def test_bfloat16_and_a_range(transformer):
    compiled = Compiled(MODEL, "cuda-sm80", precision="bf16", dims={"batch": 1, "sequence": "1..16"})
    feeds = feeds_of(1, 9)
    agree(compiled(feeds), transformer[1].run(None, feeds), HALF_PRECISIONS["bf16"])
    assert {row["rows"] for row in compiled.artifact.report["layers"]} == {1, 16}
    with pytest.raises(InputError, match=r"dimension 'sequence' is 17 in input 'ids'.* compiled for 1 to 16"):
        compiled(feeds_of(1, 17))


def pooled():
    """Linear layers around a sum over the tokens that no kernel of a device computes at such sizes.

    One output looks at another in a different shape, one in a different order.
    """
    g = networks.Graph()
    x = g("Relu", g.linear("x", 64, 32), name="wide")
    g("Reshape", x, g.constant(np.array([0, 0, 8, 8])), name="split")
    mean = g("ReduceLogSumExp", x, g.constant(np.array([1])), keepdims=0)
    g("Identity", g("Transpose", x, perm=[2, 0, 1]), name="turned")
    g.linear(mean, 16, 64, name="y")
    shapes = {"y": ["batch", 16], "turned": [64, "batch", "tokens"], "wide": ["batch", "tokens", 64],
              "split": ["batch", "tokens", 8, 8]}
    return g.model({"x": (1, ["batch", "tokens", 32])}, shapes)


def test_what_no_kernel_computes_runs_on_the_processor_and_is_reported():
    model = pooled()
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    (note,) = compiled.artifact.report["outside"]
    assert note["operator"] == "ReduceLogSumExp"
    assert "the processor computes it" in note["reason"]
    assert [each.node for each in explain(model, "cuda-sm80").any_size.outside] == [note["layer"]]
    for batch, tokens in ((1, 1), (2, 5), (2, 5), (3, 20)):
        feeds = {"x": np.random.default_rng(tokens).standard_normal((batch, tokens, 32)).astype(np.float32)}
        agree(compiled(feeds), session.run(None, feeds))
    with pytest.raises(UnsupportedOperatorError, match="1 layer would run without sparsec's kernels"):
        Compiled(model, "cuda-sm80", strict=True)


def test_outputs_are_brought_where_they_are_wanted():
    model = pooled()
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    lane, names = compiled.runner._lane, [each.name for each in session.get_outputs()]
    for seed, name in enumerate(("turned", "split", "y")):
        feeds = {"x": np.random.default_rng(seed).standard_normal((2, 5, 32)).astype(np.float32)}
        for _ in range(2):
            before = lane.brought
            (found,) = compiled(feeds, [names.index(name)])
            assert lane.brought - before == 2  # what the processor reads, too
            agree([found], session.run([name], feeds))


def backwards(g, x):
    return g("Slice", x, *(g.constant(np.array([each])) for each in (-1, -(2**31), 1, -1)))


def added_up(g, x):
    return g("CumSum", x, g.constant(np.array(1)))


@pytest.mark.parametrize("change", [backwards, added_up])
def test_moves_that_only_the_processor_does_are_reported(change):
    g = networks.Graph()
    g.linear(change(g, g.linear("x", 32, 32)), 8, 32, name="y")
    model = g.model({"x": (1, ["batch", "tokens", 32])}, {"y": ["batch", "n", 8]})
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert {each["operator"] for each in compiled.artifact.report["outside"]} >= {g.nodes[2].op_type}
    for batch, tokens in ((1, 1), (2, 4), (2, 4)):
        feeds = {"x": np.random.default_rng(tokens).standard_normal((batch, tokens, 32)).astype(np.float32)}
        agree(compiled(feeds), session.run(None, feeds))
    with pytest.raises(UnsupportedOperatorError, match="would run without sparsec's kernels"):
        Compiled(model, "cuda-sm80", strict=True)


def test_what_lies_in_any_order_is_copied():
    g = networks.Graph()
    x = g("Reshape", g.linear("x", 32, 32), g.constant(np.array([0, 0, 2, 2, 2, 2, 2])))
    g("Transpose", x, perm=[6, 1, 5, 0, 3, 2, 4], name="turned")
    model = g.model({"x": (1, ["batch", "tokens", 32])}, {"turned": [2, "tokens", 2, "batch", 2, 2, 2]})
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32)}
    agree(compiled(feeds), session.run(None, feeds))


def test_integers_of_the_device_are_copied_too():
    g = networks.Graph()
    best = g("ArgMax", g.linear("x", 8, 32), axis=-1)
    g("Transpose", best, perm=[1, 0, 2], name="turned")
    model = g.model({"x": (1, ["batch", "tokens", 32])}, {"turned": ["tokens", "batch", 1]})
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert not compiled.artifact.report["outside"]
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float32)}
    assert (compiled(feeds)[0] == session.run(None, feeds)[0]).mean() > 0.8  # near ties are rounded otherwise


def rotating(heads=2, depth=16):
    """One layer of attention over the tokens up to each, whose queries and keys are rotated by their places."""
    g, width = networks.Graph(), heads * depth
    length = g("Gather", g("Shape", "x"), g.constant(np.array(1)))
    places = g("Range", g.constant(np.array(0)), length, g.constant(np.array(1)))
    angles = g("Mul", g("Unsqueeze", g("Cast", places, to=1), g.constant(np.array([1]))),
               g.constant((10.0 ** -np.arange(0, 1, 2 / depth)).astype(np.float32)))
    angles = g("Concat", angles, angles, axis=-1)
    cos, sin = g("Cos", angles), g("Sin", angles)
    later = g("Greater", places, g("Unsqueeze", places, g.constant(np.array([1]))))
    mask = g("Where", later, g.constant(np.float32(-1e9)), g.constant(np.float32(0)))
    q, k, v = (networks.split(g, g.linear("x", width, width), heads) for _ in range(3))

    def rotated(x):
        first, second = (g("Slice", x, *(g.constant(np.array([n])) for n in (start, start + depth // 2, 3)))
                         for start in (0, depth // 2))
        turned = g("Concat", g("Neg", second), first, axis=-1)
        return g("Add", g("Mul", x, cos), g("Mul", turned, sin))

    scores = g("MatMul", rotated(q), g("Transpose", rotated(k), perm=[0, 1, 3, 2]))
    weights = g("Softmax", g("Add", g("Mul", scores, g.constant(np.float32(depth ** -0.5))), mask), axis=-1)
    mixed = g("Transpose", g("MatMul", weights, v), perm=[0, 2, 1, 3])
    g.linear(g("Reshape", mixed, g.constant(np.array([0, -1, width]))), 8, width, name="y")
    return g.model({"x": (1, ["batch", "tokens", width])}, {"y": ["batch", "tokens", 8]})


def test_rotations_are_kernels():
    model = rotating()
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert not compiled.artifact.report["outside"]
    assert [step["op"] for step in compiled.program.steps].count("rotary") == 2
    for batch, tokens in ((1, 1), (2, 7), (1, 20)):
        feeds = {"x": np.random.default_rng(tokens).standard_normal((batch, tokens, 32)).astype(np.float32)}
        agree(compiled(feeds), session.run(None, feeds))
    assert compiled.runner._lane.recorded == 3  # one graph each


def test_images_come_in_any_number():
    g = networks.Graph()
    x = g("GlobalAveragePool", g("Relu", g.conv("x", 8, 4, 3)))
    g.linear(g("Flatten", x), 5, 8, name="y")
    model = networks.symbolic(g.model({"x": (1, [1, 4, 6, 6])}, {"y": [1, 5]}), "batch")
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert {row["rows"] for row in compiled.artifact.report["layers"]} == {1, 8}
    for batch in (1, 3, 9):
        feeds = {"x": np.random.default_rng(batch).standard_normal((batch, 4, 6, 6)).astype(np.float32)}
        agree(compiled(feeds), session.run(None, feeds))


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_halves_of_the_model_are_halves(name, precision):
    """Inputs, outputs of the device, and of the processor behind it; reference: the same in float32."""
    g = networks.Graph()
    y = g("Cast", g.linear(g("Relu", g.linear(g("Cast", "x", to=1), 64, 32)), 16, 64), to=1, name="y")
    g("Cast", g("ReduceMean", g("Cast", y, to=1), g.constant(np.array([1])), keepdims=0), to=1, name="mean")
    model = g.model({"x": (1, ["batch", "tokens", 32])}, {"y": ["batch", "tokens", 16], "mean": ["batch", 16]})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    narrow = onnx.helper.np_dtype_to_tensor_dtype(element_type(name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = narrow
    for node in model.graph.node:
        if node.output[0] in ("y", "mean"):
            node.attribute[0].i = narrow
    compiled = Compiled(model, "cuda-sm80", precision=precision)
    for tokens in (1, 7, 7):
        x = np.random.default_rng(tokens).standard_normal((2, tokens, 32)).astype(element_type(name))
        found = compiled({"x": x})
        assert {each.dtype for each in found} == {element_type(name)}
        agree([each.astype(np.float32) for each in found], session.run(None, {"x": x.astype(np.float32)}),
              HALF_PRECISIONS["bf16"])


def test_plans_that_kernels_contradict_are_refused():
    g = networks.Graph()
    g.linear(g("Relu", g.linear("x", 64, 32)), 8, 64, name="y")
    compiled = Compiled(networks.symbolic(g.model({"x": (1, [1, 32])}, {"y": [1, 8]}), "rows"), "cuda-sm80")
    compiled.program._steps[0]["made"][0]["dtype"] = "float16"
    with pytest.raises(ArtifactError, match=r"takes float32 of shape .* for rows of float16"):
        compiled({"x": np.zeros((3, 32), np.float32)})
    compiled.program._steps[0]["given"][0]["shape"] = [16]
    with pytest.raises(InputError, match="'x' of shape \\(3, 32\\) has not the 3 rows"):
        compiled({"x": np.zeros((3, 32), np.float32)})


def test_no_rows_give_no_rows():
    g = networks.Graph()
    g.linear(g("Relu", g.linear("x", 64, 32)), 8, 64, name="y")
    compiled = Compiled(networks.symbolic(g.model({"x": (1, [1, 32])}, {"y": [1, 8]}), "rows"), "cuda-sm80")
    (y,) = compiled({"x": np.zeros((0, 32), np.float32)})
    assert y.shape == (0, 8)


def test_a_weight_is_packed_once_for_all_numbers_of_rows(monkeypatch):
    packed, launched, pack, beside = [], [], products._packed, products._beside

    def noted(layer, option, half):
        packed.append((id(layer.facts), option.format, FAMILIES[option.family].packed_by(option.params)))
        return pack(layer, option, half)

    monkeypatch.setattr(products, "_packed", noted)
    monkeypatch.setattr(products, "_beside", lambda *given: (launched.append(given), beside(*given))[1])
    Compiled(MODEL, "cuda-sm80")
    assert len(packed) == len(set(packed)) < len(launched)


def test_attention_has_the_kernels_that_its_calls_need(transformer):
    names = {each.name_hint for each in transformer[0].program._kernels.module.get_global_vars()}
    assert {each for each in names if each.startswith("attention")} == {"attention0_16_masked", "attention0_64_masked"}
