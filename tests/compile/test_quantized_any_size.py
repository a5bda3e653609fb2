"""Quantised transformers and networks of images run at every size as their files say, by kernels on codes."""

import json

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import sparsec
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.runtime.sized import recorder
from tests.support.texts import model as model_of

ENCODER = """encoder (float[n, t, 16] x, float[n, 1, 1, t] mask) =>
    (float[n, t, 16] y) <int64[4] heads = {0, 0, 2, 8}, int64[3] merged = {0, 0, 16}, float root = {2.83},
    float[16] ones, float[16] zeros, float[16, 16] wq, float[16, 16] wk, float[16, 16] wv,
    float[16, 16] wo, float[16, 32] up, float[32, 16] down, float[16] bias> {
  q0 = MatMul(x, wq) q1 = Add(q0, bias) q2 = Reshape(q1, heads) q = Transpose<perm=[0, 2, 1, 3]>(q2)
  k0 = MatMul(x, wk) k2 = Reshape(k0, heads) k = Transpose<perm=[0, 2, 3, 1]>(k2)
  v0 = MatMul(x, wv) v2 = Reshape(v0, heads) v = Transpose<perm=[0, 2, 1, 3]>(v2)
  s0 = MatMul(q, k) s1 = Div(s0, root) s2 = Add(s1, mask) p = Softmax<axis=-1>(s2) a = MatMul(p, v)
  a1 = Transpose<perm=[0, 2, 1, 3]>(a) a2 = Reshape(a1, merged) o = MatMul(a2, wo) r = Add(o, x)
  l = LayerNormalization<axis=-1>(r, ones, zeros) u = MatMul(l, up) g = Relu(u) d = MatMul(g, down) e = Add(d, l)
  y = LayerNormalization<axis=-1>(e, ones, zeros)
}"""
IMAGES = """images (float[n, 3, 8, 8] x) => (float[n, 5] y)
    <float[8, 3, 3, 3] kernel, float[8, 8, 3, 3] second, float[8, 5] head> {
  c = Conv<pads=[1, 1, 1, 1]>(x, kernel) h = Relu(c) e = Conv<pads=[1, 1, 1, 1]>(h, second) r = Add(e, h)
  p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, head)
}"""
SIZES = {"encoder": [(1, 1), (1, 7), (2, 5), (3, 30)], "images": [(1,), (3,), (9,)]}


def feeds_of(name, *sizes, seed=0):
    rng = np.random.default_rng(seed)
    if name == "images":
        return {"x": rng.standard_normal((*sizes, 3, 8, 8), np.float32)}
    mask = np.where(np.arange(sizes[1]) < max(1, sizes[1] - 2), 0, -30).astype(np.float32)
    return {"x": rng.standard_normal((*sizes, 16), np.float32), "mask": np.tile(mask, (sizes[0], 1, 1, 1))}


class Samples(CalibrationDataReader):
    def __init__(self, name):
        self.feeds = iter([feeds_of(name, *SIZES[name][-1], seed=seed) for seed in (1, 2)])

    def get_next(self):
        return next(self.feeds, None)


def quantized(name, form, folder):
    plain, done = folder / "plain.onnx", folder / "quantized.onnx"
    model = model_of({"encoder": ENCODER, "images": IMAGES}[name])
    onnx.save(model, plain)
    if form == "dynamic":
        quantize_dynamic(plain, done, weight_type=QuantType.QInt8)
    else:
        quantize_static(plain, done, Samples(name), getattr(QuantFormat, form.removesuffix(" by output")),
                        per_channel="output" in form, weight_type=QuantType.QInt8)
    return onnx.load(done)


@pytest.mark.parametrize("count", [3, 5, 9, 11])
def test_images_of_which_some_begin_where_memory_is_not_aligned_are_copied(images, monkeypatch, count):
    """As of ten classes, whose rows are 40 bytes; 5 here."""
    model, artifact = images
    monkeypatch.setattr(recorder, "COPY_S", -1.0)
    session, feeds = sparsec.InferenceSession(artifact), feeds_of("images", count)
    for _ in range(2):
        assert relative_error(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0]) < 1e-5


@pytest.fixture(scope="module")
def images():
    model = model_of(IMAGES)
    return model, sparsec.compile(model, tune="off", verify=False)


FORMS = [("encoder", "QDQ"), ("encoder", "QDQ by output"), ("encoder", "QOperator"), ("encoder", "dynamic"),
         ("images", "QDQ"), ("images", "QOperator")]


@pytest.mark.parametrize(("name", "form"), FORMS, ids=[" ".join(each) for each in FORMS])
def test_quantized_models_run_on_codes_at_every_size(name, form, tmp_path):
    model = quantized(name, form, tmp_path)
    artifact = sparsec.compile(model, tune="off")
    assert not artifact.report["outside"]
    plan = json.loads(artifact.constants()[0].tobytes())
    left = [step["op"] for step in plan["steps"] if step["inputs"][0] != "mask"]
    assert not {"onnx", "QuantizeLinear", "MatMul", "Conv"} & set(left)
    assert any(layer["kernel"].startswith("q") for layer in artifact.report["layers"])
    session = sparsec.InferenceSession(artifact)
    for sizes in SIZES[name]:
        feeds = feeds_of(name, *sizes)
        for _ in range(2):  # step by step, and as the first call was taken
            assert relative_error(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0]) < 5e-2
