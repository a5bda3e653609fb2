"""Every operator in the registry: dead channels go through it, whether they are zero or constant."""

import onnx
import onnx_ir as ir
import pytest

from sparsec.analysis.liveness.analysis import RULES
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.reader import load
from sparsec.passes.strip import strip
from tests.support.strip.samples import SAMPLES


@pytest.mark.parametrize("bias", [False, True], ids=["zero", "constant"])
@pytest.mark.parametrize("operator", sorted(RULES))
def test_dead_channels_go_through_every_operator(operator, bias):
    sample = SAMPLES[operator]
    proto = sample.build(bias)
    model = load(proto)
    feeds = random_feeds(model)
    report = strip(model)
    stripped = ir.to_proto(model)
    onnx.checker.check_model(stripped, full_check=True)
    (expected,), (actual,) = run_onnxruntime(proto, feeds), run_onnxruntime(stripped, feeds)
    assert relative_error(actual, expected) <= 1e-5
    assert not report.unknown
    assert report.total.after.bytes <= report.total.before.bytes
    assert (report.counts["units removed"] == 0) == (bias in sample.keeps), report.notes
