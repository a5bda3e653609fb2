"""onnxruntime runs models whose file format is newer than it knows."""

import numpy as np
import onnx
import pytest

from sparsec.graph import ort

NEWER = 99
X = np.arange(4, dtype=np.float32)


def model(nodes="y = Add(x, w)"):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) '
                                    f"<float[4] w = {{1, 2, 3, 4}}> {{ {nodes} }}")
    proto.ir_version = NEWER
    return proto


@pytest.mark.parametrize("source", ["proto", "bytes", "path", "external"])
def test_a_newer_ir_version_runs(source, tmp_path):
    proto, path = model(), tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=source == "external", size_threshold=0)
    given = {"proto": proto, "bytes": proto.SerializeToString()}.get(source, path)
    assert np.array_equal(ort.session(given, 1).run(None, {"x": X})[0], np.add(X, [1, 2, 3, 4]))


def test_what_onnxruntime_cannot_run_is_refused_all_the_same():
    with pytest.raises(Exception, match="NoSuchOperator"):
        ort.session(model("y = NoSuchOperator(x, w)"))
