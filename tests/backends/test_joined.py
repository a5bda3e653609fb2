"""A convolution and the layer behind it run as one kernel where the image between would leave the cache."""

import numpy as np
import pytest

import sparsec
from sparsec.kernels.cpu.images import stem_filtering
from sparsec.kernels.cpu.products import tilings
from sparsec.report.explain import explain
from tests.support.texts import model

WEIGHTS = "float[8,8,1,1] w, float[8,1,3,3] d, float[8,8,1,1] v"


def pruned(nodes):
    """A model of these nodes whose weight `w` has one number in a row."""
    return model(f"g (float[1,8,32,32] x) => (float[1,8,32,32] y) <{WEIGHTS}> {{ {nodes} }}", w=np.eye(8))


CASES = {  # nodes -> convolutions that run as one with what is behind them
    "alone": ("a = Conv(x, w) b = Relu(a) c = Conv<group=8,pads=[1,1,1,1]>(b, d) y = Conv(c, v)", 1),
    "read by another": ("a = Conv(x, w) c = Conv<group=8,pads=[1,1,1,1]>(a, d) s = Add(a, c) y = Conv(s, v)", 0),
    "behind another of its kind": ("a = Conv<group=8,pads=[1,1,1,1]>(x, d) y = Conv<group=8,pads=[1,1,1,1]>(a, d)", 0),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_what_alone_reads_a_convolution_is_computed_with_it(case, threads, monkeypatch):
    monkeypatch.setattr(tilings, "JOINED", 0.0)
    nodes, expected = CASES[case]
    report = sparsec.compile(pruned(nodes), tune="off", threads=threads).report
    assert sum(row["kernel"].endswith("+depthwise") for row in report["layers"]) == expected
    assert report["verification"]["inputs"] > 0


@pytest.mark.parametrize("options", [{"strict_ieee": True}, {"precision": "bf16"}])
def test_other_precisions_keep_the_layers_apart(options, monkeypatch):
    monkeypatch.setattr(tilings, "JOINED", 0.0)
    report = sparsec.compile(pruned(CASES["alone"][0]), tune="off", **options).report
    assert not any(row["kernel"].endswith("+depthwise") for row in report["layers"])


def test_dense_stays_a_candidate_beside_kernels_of_both(monkeypatch):
    monkeypatch.setattr(tilings, "JOINED", 0.0)
    layers = explain(pruned(CASES["alone"][0])).layers
    assert any(each.candidates[0].kernel.endswith("+depthwise") for each in layers)
    assert all(each.dense_us for each in layers)


def stem(nodes):
    """A model of these nodes behind a convolution of a large window."""
    return model(f"g (float[1,3,64,64] x) => (float[1,32,n,m] y) <float[32,3,7,7] w, float[32,32,1,1] v> {{ "
                 f"a = Conv<strides=[2,2],pads=[3,3,3,3]>(x, w) {nodes} }}")


POOL = "MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>"
STEMS = {  # nodes -> kernels of a stem and its pool
    "a pool": (f"b = Relu(a) c = {POOL}(b) y = Conv(c, v)", 1),
    "a pool that is an output": (f"y = {POOL}(a)", 1),
    "a pool behind what falls": (f"b = HardSwish(a) c = {POOL}(b) y = Conv(c, v)", 0),
    "an image that others read": (f"b = {POOL}(a) c = Average{POOL[3:]}(a) d = Add(b, c) y = Conv(d, v)", 0),
    "an average": ("b = AveragePool<kernel_shape=[3,3],strides=[2,2]>(a) y = Conv(b, v)", 0),
}


@pytest.mark.parametrize("case", STEMS)
def test_a_stem_computes_the_pool_behind(case, monkeypatch):
    monkeypatch.setattr(stem_filtering, "FAR_SHARE", 0.0)
    nodes, expected = STEMS[case]
    report = sparsec.compile(stem(nodes), tune="off", threads=2).report
    assert sum(row["kernel"].endswith("+pool") for row in report["layers"]) == expected
    assert report["verification"]["inputs"] > 0


def test_a_pool_has_its_kernel_behind_the_plain_stem(monkeypatch):
    monkeypatch.setattr(stem_filtering, "FAR_SHARE", 0.0)
    kernels = [row["kernel"] for row in sparsec.compile(stem(STEMS["a pool"][0]), strict_ieee=True).report["layers"]]
    assert "stem" in kernels
    assert "stem/filtering" in {each.kernel for layer in explain(stem(STEMS["an average"][0])).layers
                                for each in layer.candidates}
