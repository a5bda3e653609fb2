"""Measuring on other machines: a tracker and two servers on loopback, one of which dies mid-way."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import sparsec
from sparsec.backends.cpu.planning import layer_options
from sparsec.backends.cpu.remote import connect
from sparsec.compiler.pipeline import run_passes
from sparsec.errors import CalibrationError, UsageError
from sparsec.graph import reader
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.cli import write_model

pytest.importorskip("tornado", reason="TVM's RPC needs sparsec[rpc]")
pytest.importorskip("cloudpickle", reason="TVM's RPC needs sparsec[rpc]")
pytest.importorskip("psutil", reason="TVM's RPC needs sparsec[rpc]")

CPU = resolve("cpu")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(module, port, *arguments):
    command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", "--port", str(port), "--port-end",
               str(port + 1), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # a session of our own, with the workers that it started
    process.wait()


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def servers_at(url):
    try:
        return connect(url).servers
    except CalibrationError:
        return 0


@pytest.fixture
def rpc():
    """The URL and the processes of two servers."""
    port = free_port()
    url = f"rpc://127.0.0.1:{port}/test"
    processes = [start("rpc_tracker", port)]
    try:
        processes += [start("rpc_server", free_port(), "--tracker", f"127.0.0.1:{port}", "--key", "test")
                      for _ in range(2)]
        wait_for(lambda: servers_at(url) == 2)
        yield url, processes[1:]
    finally:
        for process in processes:
            kill(process)


def test_both_servers_measure_and_one_may_die_midway(rpc, tmp_path, monkeypatch):
    url, servers = rpc
    graph = reader.load(write_model(tmp_path / "model.onnx"))
    run_passes(graph, Context(CPU))
    node, options = next((node, options) for node in graph.graph if (options := layer_options(node, CPU, 1)))
    remote = connect(url)
    with ThreadPoolExecutor(2) as pool:
        assert all(0 < seconds < 1 for seconds in pool.map(lambda o: remote.measure(node, o, CPU, 1), options))
    kill(servers[0])
    assert all(0 < remote.measure(node, option, CPU, 1) < 1 for option in options)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    artifact = sparsec.compile(tmp_path / "model.onnx", measure_on=url)
    assert all(layer["measured_us"] is not None for layer in artifact.report["layers"])
    kill(servers[1])
    with pytest.raises(CalibrationError, match=r"rpc://.*(server|attempts)"):
        connect(url).measure(node, options[0], CPU, 1)


def test_unreachable_trackers_and_wrong_urls_are_refused(tmp_path):
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(CalibrationError, match="cannot be reached"):
        sparsec.compile(model, measure_on=f"rpc://127.0.0.1:{free_port()}/key")
    for url in ("http://127.0.0.1:1/key", "rpc://127.0.0.1/key", "rpc://127.0.0.1:1", "rpc://:x/key"):
        with pytest.raises(UsageError, match="such as rpc://"):
            sparsec.compile(model, measure_on=url)
    with pytest.raises(UsageError, match="tune"):
        sparsec.compile(model, measure_on="rpc://127.0.0.1:1/key", tune="off")
