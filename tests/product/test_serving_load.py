"""`sparsec serve` under load from 64 clients: nothing lost, nothing wrong, also while it ends, and what it refuses.

A second each; with SPARSEC_LONG the load goes on for ten minutes, or for SPARSEC_LOAD_SECONDS.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sparsec
from tests.support.http_load import capacity, load

pytest.importorskip("kserve", reason="kserve is not installed")

LONG = bool(os.environ.get("SPARSEC_LONG"))
SECONDS = float(os.environ.get("SPARSEC_LOAD_SECONDS") or (600 if LONG else 1.5))
STEP_SECONDS = 4 if LONG else 1.0
WIDTHS = {"small": (16, 8), **({"large": (16, 4096, 4096, 4096, 8)} if LONG else {})}
CORES = sorted(os.sched_getaffinity(0))
APART = LONG and len(CORES) > 1
"""Whether clients have a core of their own, which the server leaves to them."""
RNG = np.random.default_rng(0)


@contextmanager
def on(cores):
    """Have this process run on some cores for a while."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def saved(folder, name, widths):
    """An artifact of products of any number of rows, and inputs of one row with their outputs."""
    weights = [RNG.standard_normal(pair).astype(np.float32) / pair[0] ** 0.5 for pair in pairwise(widths)]
    nodes = [helper.make_node("MatMul", [f"x{n}" if n else "x", f"w{n}"], [f"x{n + 1}"]) for n in range(len(weights))]
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", 1, ["batch", widths[0]])],
        [helper.make_tensor_value_info(f"x{len(weights)}", 1, ["batch", widths[-1]])],
        [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    artifact = sparsec.compile(onnx.ModelProto.FromString(model.SerializeToString()), tune="off")
    artifact.save(folder / f"{name}.sparsec")
    rows = [RNG.standard_normal((1, widths[0])).astype(np.float32) for _ in range(16)]
    with sparsec.InferenceSession(artifact) as session:
        return rows, [session.run(None, {"x": row})[0] for row in rows]


class Server:
    """`sparsec serve` in a process of its own, on a port that was free."""

    def __init__(self, *arguments):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        with on(CORES[1:] if APART else CORES):  # and so does what it starts
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sparsec", "serve", *map(str, arguments), "--port", str(self.port),
                 "--grpc-port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})

    def wait(self):
        while self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=10).status
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.process.returncode)

    def unload(self, model):
        request = f"http://127.0.0.1:{self.port}/v2/repository/models/{model}/unload"
        return urllib.request.urlopen(urllib.request.Request(request, b""), timeout=10).status

    def load(self, case, seconds=SECONDS, model=None, **options):
        """Requests of the rows of a case, whose answers must be the session's."""
        name, rows, expected = case
        bodies = [json.dumps({"id": str(n), "inputs": [{"name": "x", "datatype": "FP32", "shape": row.shape,
                                          "data": row.ravel().tolist()}]}).encode() for n, row in enumerate(rows)]
        with on(CORES[:1] if APART else CORES):
            found = load(self.port, f"v2/models/{model or name}/infer", bodies, seconds=seconds, check=lambda n, body: (
                np.allclose(json.loads(body)["outputs"][0]["data"], expected[n].ravel(), atol=1e-4)), **options)
        assert not found.lost()
        assert not found.wrong
        return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return folder, {name: (name, *saved(folder, name, widths)) for name, widths in WIDTHS.items()}


@pytest.fixture(scope="module")
def servers(cases, tmp_path_factory):
    """One as it is, and one whose requests wait for others, in a queue that is too short for them all."""
    small = Path(shutil.copy(cases[0] / "small.sparsec", tmp_path_factory.mktemp("removed")))
    found = Server(small, f"again={small}"), Server(small, "--max-delay", 50, "--queue", 16)
    for each in found:
        each.wait()
    small.unlink()  # nobody needs the file of a model that is served
    yield found
    for each in found:
        each.process.kill()


@pytest.mark.timeout(300 + 2 * SECONDS)
@pytest.mark.parametrize("name", WIDTHS)
def test_at_four_fifths_of_its_capacity_a_server_answers_evenly(name, cases):
    case = cases[1][name]
    server = Server(cases[0] / f"{name}.sparsec")
    try:
        server.wait()
        server.load(case, STEP_SECONDS / 2)  # its first requests cost more
        most = server.load(case, STEP_SECONDS).rate
        rate = 0.8 * capacity(lambda rate: server.load(case, STEP_SECONDS, rate=rate), most) if LONG else 0.4 * most
        found = server.load(case, rate=rate)
    finally:
        server.process.kill()
    median, last = found.percentiles()
    print(f"at once {most:.0f} a second, sustained {rate / 0.8:.0f}; {dict(found.counts)} in {found.took:.0f} s; "
          f"{median:.2f}, {last:.2f} ms")
    assert set(found.counts) == {200}
    assert not LONG or last < 5 * median  # a second says little of the slowest of a hundred


@pytest.mark.skipif(not LONG, reason="compiles a larger model, and starts two servers")
def test_rows_together_are_no_slower_than_one_by_one(cases):
    large = cases[0] / "large.sparsec"
    servers = Server(large), Server(large, "--max-batch", 1)
    try:
        for each in servers:
            each.wait()
        rates = [[each.load(cases[1]["large"], 5).rate for each in servers] for _ in range(3)]
    finally:
        for each in servers:
            each.process.kill()
    assert sorted(together / alone for together, alone in rates)[1] > 1


def test_a_full_queue_refuses_and_goes_on(servers, cases):
    small = cases[1]["small"]
    assert set(servers[1].load(small, 0.7).counts) == {200, 429}
    assert set(servers[1].load(small, 0.2, clients=4).counts) == {200}


def test_a_model_that_is_removed_under_load_answers_what_it_has(servers, cases):
    server = servers[0]
    threading.Timer(0.4, server.unload, ["again"]).start()
    counts = server.load(cases[1]["small"], 0.8, model="again").counts
    assert {200, 404} <= set(counts) <= {200, 404, 503}
    assert set(server.load(cases[1]["small"], 0.2).counts) == {200}


def test_a_server_that_is_told_to_end_under_load_loses_nothing(servers, cases):
    server = servers[0]
    threading.Timer(0.5, server.process.send_signal, [signal.SIGTERM]).start()
    found = server.load(cases[1]["small"], 30)
    assert set(found.counts) == {200, "refused"}
    assert found.counts["refused"] == 64
    assert server.process.wait(30) == 0
