"""The script of a new user's first hour ends as it should; it takes minutes, and so runs where SPARSEC_LONG is set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "first_hour.sh"


@pytest.mark.skipif("SPARSEC_LONG" not in os.environ, reason="takes minutes; SPARSEC_LONG runs it")
def test_the_first_hour_goes_as_written(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([SCRIPT, tmp_path], env={**os.environ, "PATH": path}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith("all as expected\n")
