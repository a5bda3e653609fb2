"""Ctrl-C ends a command with one line and exit code 130, wherever it comes, and leaves nothing behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import onnx
import pytest
import tvm_ffi

from sparsec import cli
from sparsec.bench import latency
from sparsec.compiler.failures import named
from sparsec.compiler.fallback import with_fallback
from sparsec.compiler.options import CompileOptions
from tests.support.texts import model

NETWORK = "g (float[1,64] x) => (float[1,64] y) <float[64,64] w> { h = MatMul(x, w) y = Relu(h) }"


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_an_interrupt_is_one_line(seconds, tmp_path):
    path, temporary = tmp_path / "model.onnx", tmp_path / "temporary"
    temporary.mkdir()
    onnx.save(model(NETWORK), path)
    code = "from sparsec.__main__ import main\nwhile True: main()"  # however fast the machine, the command still runs
    command = "import sys; sys.argv = " + repr(["sparsec", "bench", str(path), "--seconds", "60"])
    running = subprocess.Popen([sys.executable, "-c", f"{command}\n{code}"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "TMPDIR": str(temporary)})
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert [line for line in said.splitlines() if "%" not in line] == ["sparsec: error: interrupted"]
    assert not list(temporary.glob("sparsec-*"))


def test_a_worker_whose_caller_left_without_reading_says_nothing(tmp_path, capfd):
    path = tmp_path / "model.onnx"
    onnx.save(model(NETWORK), path)
    ours, theirs = multiprocessing.Pipe()
    ours.send(0.01)
    caller = threading.Thread(target=lambda: ours.poll(30) and ours.close())  # an answer lies unread: a reset
    caller.start()
    handler = signal.getsignal(signal.SIGINT)
    try:
        latency._serve(theirs, "onnxruntime", str(path), {"x": np.zeros((1, 64), np.float32)}, 1, 1)
    finally:
        signal.signal(signal.SIGINT, handler)
    caller.join()
    assert ours.closed
    assert capfd.readouterr().err == ""


def test_what_an_interrupt_became_on_its_way_is_not_told_as_a_failure(tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.onnx"
    path.write_text("not ONNX")
    monkeypatch.setattr("sys.argv", ["sparsec", "inspect", str(path)])
    with pytest.raises(KeyboardInterrupt):
        cli.main(lambda: True)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda: False)
    assert ended.value.code == 1


def test_an_interrupt_within_tvm_is_one_and_leaves_no_layer_out():
    def interrupted():
        raise KeyboardInterrupt

    within_tvm = tvm_ffi.convert(interrupted)
    with pytest.raises(RuntimeError):  # what sparsec meets
        within_tvm()
    for protect in (named, with_fallback):
        with pytest.raises(KeyboardInterrupt):
            protect(lambda *_: within_tvm())(b"", CompileOptions())
