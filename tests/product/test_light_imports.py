"""What sparsec loads: neither a session nor the compiler imports PyTorch where it happens to be installed."""

import subprocess
import sys

import pytest

from tests.support.programs import signature_artifact

WORK = {
    "session": "from sparsec import InferenceSession; InferenceSession({path!r})",
    "compiler": "import sparsec.compiler.compile, sparsec.backends.cuda.build",
}


@pytest.mark.parametrize("work", WORK)
def test_pytorch_is_not_imported(work, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('PyTorch was imported')")
    path = tmp_path / "model.sparsec"
    signature_artifact().save(path)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + WORK[work].format(path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("work", "unneeded"), [
    (WORK["session"], ("sparsec.formats", "sparsec.kernels", "sparsec.cost.option", "sparsec.runtime.sized", "onnx")),
    ("import sparsec.cli", ("onnx", "onnx_ir", "scipy", "tvm_ffi"))])
def test_what_takes_long_to_import_is_imported_where_it_is_needed(work, unneeded, tmp_path):
    path = tmp_path / "model.sparsec"
    signature_artifact().save(path)
    program = work.format(path=str(path)) + "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {*unneeded} & {*done.stdout.split()}
