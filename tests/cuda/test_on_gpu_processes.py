"""Processes on a real GPU: NVIDIA's compute-sanitizer finds nothing, memory does not grow, and one may be killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparsec
from tests.support.cuda import calls, networks
from tests.support.cuda.gpu import ARCH, NEEDED, WAYS

SANITIZER = shutil.which("compute-sanitizer", path=os.pathsep.join(
    [os.environ.get("PATH", ""), str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin")]))
pytestmark = NEEDED


@pytest.fixture(scope="module", params=WAYS)
def artifact(request, tmp_path_factory):
    """The file of a transformer for any size, whose kernels are launched in either way."""
    path = tmp_path_factory.mktemp("processes") / "model.sparsec"
    model = networks.symbolic(networks.transformer(), "batch", "sequence")
    sparsec.compile(model, f"cuda-{ARCH}", dependent_launch=request.param, strict=True).save(path)
    return path


def command(artifact, threads, count):
    return [sys.executable, "-m", calls.__name__, str(artifact), str(threads), str(count)]


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer, part of NVIDIA's CUDA toolkit, is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "synccheck"])
def test_sanitizers_find_nothing(artifact, tool):
    done = subprocess.run([SANITIZER, "--tool", tool, "--error-exitcode", "9", *command(artifact, 1, 16)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_hundred_thousand_calls_from_threads_are_right_and_take_no_more_memory(artifact):
    done = subprocess.run(command(artifact, 8, 100_000), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_process_that_is_killed_in_a_call_leaves_the_next_one_well(artifact):
    process = subprocess.Popen(command(artifact, 4, 10**9), stderr=subprocess.PIPE)
    time.sleep(15)  # it has opened the session, and calls it
    assert process.poll() is None, process.stderr.read()[-2000:]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command(artifact, 1, 64), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
