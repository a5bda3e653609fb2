"""Queues of requests, and `sparsec serve` by REST and gRPC, beside the session."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sparsec
from sparsec.errors import InputError
from sparsec.serving.batching import QUICK_S, ClosedError, Limits, Queue, QueueFullError, why_not_together
from tests.support import texts

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 16)).astype(np.float32)


def compiled(path, *, mixing=False):
    """A layer on any number of rows; one that mixes them subtracts their mean."""
    weight = np.where(RNG.random((16, 8)) < 0.7, 0, RNG.standard_normal((16, 8))).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    mean = [helper.make_node("ReduceMean", ["p", "axes"], ["m"], keepdims=1),
            helper.make_node("Sub", ["p", "m"], ["y"])]
    nodes += mean if mixing else [helper.make_node("Relu", ["p"], ["y"])]
    graph = helper.make_graph(
        nodes, "rows", [helper.make_tensor_value_info("x", 1, ["batch", 16])],
        [helper.make_tensor_value_info("y", 1, ["batch", 8])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0]), "axes")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return sparsec.compile(path, tune="off")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "rows.sparsec"
    compiled(path.with_suffix(".onnx")).save(path)
    return path


@pytest.fixture(scope="module")
def session(artifact):
    return sparsec.InferenceSession(artifact)


class Slow:
    """A session that waits until it may go on."""

    def __init__(self, session):
        self.session, self.go, self.rows = session, threading.Event(), []

    def run(self, names, feeds):
        assert self.go.wait(30)
        self.rows.append(len(feeds["x"]))
        return self.session.run(names, feeds)


def test_requests_that_wait_run_together(session):
    slow = Slow(session)
    queue = Queue(slow, Limits(rows=4))
    inputs = [X[:1], X[:2], X, X[1:2], X[:, :8], X[:1]]
    futures = [queue.submit({"x": x}) for x in inputs[:1]]
    while len(queue):
        time.sleep(0.001)
    futures += [queue.submit({"x": x}) for x in inputs[1:]]
    slow.go.set()
    for x, future in zip(inputs, futures, strict=True):
        if x.shape[1] == 16:
            np.testing.assert_allclose(future.result(30)[0], session.run(None, {"x": x})[0], atol=1e-6)
        else:
            with pytest.raises(InputError, match="takes"):
                future.result(30)
    assert slow.rows == [1, 4, 3, 3]  # the first, 2 + 1 + 1, what did not fit, and what is of another kind
    queue.close()


def test_a_full_queue_refuses_and_a_closed_one_runs_what_waits(session):
    slow = Slow(session)
    queue = Queue(slow, Limits(waiting=2))
    futures = [queue.submit({"x": X})]
    while len(queue):
        time.sleep(0.001)
    futures += [queue.submit({"x": X}) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        queue.submit({"x": X})
    slow.go.set()
    queue.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ClosedError):
        queue.submit({"x": X})


def test_a_request_that_was_cancelled_hinders_no_other(session):
    slow = Slow(session)
    queue = Queue(slow, Limits())
    futures = [queue.submit({"x": X})]
    while len(queue):
        time.sleep(0.001)
    futures += [queue.submit({"x": X}) for _ in range(2)]
    assert [each.cancel() for each in futures[:2]] == [False, True]  # one that runs goes on
    slow.go.set()
    assert len(futures[0].result(30)[0]) == len(futures[2].result(30)[0]) == 3
    only = queue.submit({"x": X})
    only.cancel()
    assert len(queue.submit({"x": X}).result(30)[0]) == 3
    queue.close()


def test_the_thread_that_asks_makes_runs_that_are_quick(session):
    threads = []

    class Told:
        seconds = 0.0

        def run(self, names, feeds):
            threads.append(threading.current_thread())
            begin = time.thread_time()
            while time.thread_time() < begin + self.seconds:
                pass
            return session.run(names, feeds)

    told = Told()
    queue = Queue(told, Limits())

    def run(rows):
        future = queue.submit({"x": X[:rows]}, wake=False)
        queue.run_quick()
        assert len(future.result(30)[0]) == rows
        return threads[-1] is threading.current_thread()

    assert not run(1)  # nothing is known yet
    for _ in range(100):  # a machine under load may take long for one
        if run(1):
            break
    else:
        raise AssertionError
    assert not run(3)  # more than twice as much as was quick
    told.seconds = 2 * QUICK_S
    run(1)
    assert not run(1)
    queue.close()


def test_requests_leave_nothing_for_the_collector(session):
    pytest.importorskip("kserve", reason="kserve is not installed")
    from kserve import InferInput, InferRequest

    from sparsec.serving.served import RefusedError, ServedModel

    served = ServedModel("rows", session, Limits())

    async def ask(x):
        tensor = InferInput("x", list(x.shape), "FP32", x.ravel().tolist())
        try:
            return len((await served.predict(InferRequest("rows", [tensor]))).outputs)
        except RefusedError:
            return 0

    async def found():
        counts = []
        for x in (X, X[:, :8]):
            await ask(x)
            gc.collect()
            counts += [await ask(x), gc.collect()]
        return counts

    assert asyncio.run(found()) == [1, 0, 0, 0]
    served.finish()


def test_rows_that_depend_on_each_other_do_not_run_together(session, tmp_path):
    assert why_not_together(session) is None
    mixing = sparsec.InferenceSession(compiled(tmp_path / "mixing.onnx", mixing=True))
    assert "depend on each other" in why_not_together(mixing)


@pytest.mark.parametrize(("text", "reason"), [
    ("g (float[2,8] x) => (float[2,8] y) { y = Relu(x) }", "the first size of 'x' is 2, and not one"),
    ("g (float[n,8] x, float[m,8] z) => (float[m,n] y) { t = Transpose(x) y = MatMul(z, t) }",
     "the first size of 'x' is n, that of 'z' m"),
    ("g (float[n,8] x) => (float y) { y = ReduceSum<keepdims=0>(x) }", "'y' is one number"),
])
def test_what_is_not_of_rows_is_named(text, reason):
    with sparsec.InferenceSession(sparsec.compile(texts.model(text), tune="off", verify=False)) as session:
        assert reason in why_not_together(session)


def test_rows_whose_mask_hides_all_of_them_run_together():
    attention = texts.model("""g (float[n,t,8] x, bool[n,t] hidden) => (float[n,t,8] y) <float least, int64[1] one> {
        k = Transpose<perm=[0,2,1]>(x) s = MatMul(x, k) h = Unsqueeze(hidden, one) m = Where(h, least, s)
        w = Softmax(m) y = MatMul(w, x) }""", one=[1], least=-np.inf)
    with sparsec.InferenceSession(sparsec.compile(attention, tune="off", verify=False)) as session:
        assert why_not_together(session) is None


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(artifact):
    pytest.importorskip("kserve", reason="kserve is not installed")
    ports = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsec", "serve", f"rows={artifact}", f"again={artifact}", "--port", str(ports[0]),
         "--grpc-port", str(ports[1]), "--max-request", "0.01"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    for _ in range(600):
        try:
            if call(ports[0], "v2/health/ready")[0] == 200:
                break
        except OSError:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.1)
    yield process, *ports
    process.kill()


def call(port, path, body=None, headers=None):
    """The code and the JSON or text of an answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data,
                                     headers or {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def body_of(x):
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}


def infer(port, x, model="rows"):
    code, answer = call(port, f"v2/models/{model}/infer", body_of(x))
    assert code == 200, answer
    output, = answer["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_rest_answers_as_the_session(server, session):
    _, port, _ = server
    expected = session.run(None, {"x": X})[0]
    for model in ("rows", "again"):
        np.testing.assert_allclose(infer(port, X, model), expected, atol=1e-6)
    with ThreadPoolExecutor(16) as pool:
        for row, found in enumerate(pool.map(lambda n: infer(port, X[n % 3:n % 3 + 1]), range(96))):
            np.testing.assert_allclose(found, expected[row % 3:row % 3 + 1], atol=1e-6)
    code, metadata = call(port, "v2/models/rows")
    assert (code, metadata["inputs"]) == (200, [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}])
    metrics = call(port, "metrics")[1]
    for name in ("request_seconds_count", "batch_rows_sum", "queue_requests"):
        assert f'sparsec_{name}{{model="rows"}}' in metrics


def test_grpc_answers_as_the_session(server, session):
    grpc = pytest.importorskip("grpc")
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    def request(x):
        tensor = messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
        return messages.ModelInferRequest(model_name="rows", inputs=[tensor], raw_input_contents=[x.tobytes()])

    with grpc.insecure_channel(f"127.0.0.1:{server[2]}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request(X))
        found = np.frombuffer(answer.raw_output_contents[0], np.float32) if answer.raw_output_contents else np.array(
            answer.outputs[0].contents.fp32_contents, np.float32)
        np.testing.assert_allclose(found.reshape(3, 8), session.run(None, {"x": X})[0], atol=1e-6)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(X[:, :8].copy()))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("path", "body", "code", "message"), [
    ("v2/models/rows/infer", body_of(X[:, :8]), 400, "takes"),
    ("v2/models/rows/infer", {"inputs": [{**body_of(X)["inputs"][0], "name": "z"}]}, 400, "takes the inputs"),
    ("v2/models/rows/infer", {"inputs": [{**body_of(X)["inputs"][0], "shape": [5, 5]}]}, 400,
     "input 'x' is declared FP32 of shape [5, 5]"),
    ("v2/models/rows/infer", {"inputs": 1}, 400, "inputs"),
    ("v2/models/rows/infer", b"{", 400, "JSON"),
    ("v2/models/rows/infer", {"inputs": [{**body_of(X)["inputs"][0], "shape": [-1, 16]}]}, 400, "negative size"),
    ("v2/models/rows/infer", {"inputs": body_of(X)["inputs"] * 2}, 400, "more than once"),
    ("v2/models/rows/infer", {**body_of(X), "outputs": [{"name": "z"}]}, 400, "no output 'z'"),
    ("v2/models/rows/infer", b"[" * 9_000, 400, ""),
    ("v1/models/rows:predict", {"instances": [[1.0]]}, 400, "version 2"),
    ("v2/models/nothing/infer", body_of(X), 404, "nothing"),
    ("v2/models/rows/infer", body_of(np.zeros((400, 16), np.float32)), 413, "at most 10000"),
])
def test_bad_requests_are_refused_with_the_reason(server, path, body, code, message):
    found, answer = call(server[1], path, body)
    assert found == code, answer
    assert message in answer


@pytest.mark.parametrize("size", [64, -64, 10**12, "a", 1.5, [1], True, None])
@pytest.mark.parametrize("beyond", [0, -3, 8, 10**30, "x", -10**6])
def test_binary_requests_that_contradict_themselves_are_refused(server, size, beyond):
    parameters = {"binary_data_size": size}
    head = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": parameters}]})
    length = beyond if beyond == "x" else len(head) + beyond
    code, answer = call(server[1], "v2/models/rows/infer", head.encode() + bytes(64), {
        "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)})
    assert code == (200 if beyond == 0 and size in (64, 10**12) else 400), answer


def test_a_head_without_an_end_is_refused(server):
    with socket.create_connection(("127.0.0.1", server[1]), timeout=30) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(64):
                client.sendall(bytes(1 << 20).replace(b"\0", b"a"))
            pytest.fail("64 MB of headers are taken")


def test_a_stopped_server_finishes_what_it_has_begun(server, session):
    process, port, _ = server
    assert call(port, "v2/models/unknown")[0] == 404
    sent = threading.Event()

    def work(_):
        answered = 0
        while True:
            try:
                infer(port, X)
            except OSError:  # it takes no more connections
                return answered
            answered += 1
            sent.set()

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, each) for each in range(4)]
        assert sent.wait(30)
        process.send_signal(signal.SIGINT)
        assert sum(future.result(60) for future in futures)
    assert process.wait(60) == 0
    told = process.stdout.read().decode()
    assert "Traceback" not in told  # the client has the reason
    assert "INFO" not in told
    assert "error" not in told
    assert f"serving at http://localhost:{port}/v2/models/NAME/infer" in told
    assert "deprecated" not in told


@pytest.mark.parametrize(("arguments", "message"), [
    (["missing.sparsec"], "file 'missing.sparsec' does not exist"),
    (["rows={0}", "rows={0}"], "two models are called 'rows'"),
    (["{0}", "--replicas", "4096"], "keep 4096 cores busy"),
])
def test_wrong_uses_of_serve(artifact, arguments, message):
    pytest.importorskip("kserve", reason="kserve is not installed")
    done = subprocess.run([sys.executable, "-m", "sparsec", "serve", *(each.format(artifact) for each in arguments)],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("flag", ["--port", "--grpc-port"])
def test_a_port_in_use_is_told_before_models_are_opened(artifact, flag):
    pytest.importorskip("kserve", reason="kserve is not installed")
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = subprocess.run([sys.executable, "-m", "sparsec", "serve", str(artifact), flag, port],
                              capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 2
    assert f"port {port} cannot be served" in done.stderr
    assert flag in done.stderr
