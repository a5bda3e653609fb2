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
