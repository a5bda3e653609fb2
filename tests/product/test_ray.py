"""Ray: models behind Ray Serve on two machines of this machine, of which one is lost, and commands in parts."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sparsec
from sparsec.cli import parts
from sparsec.errors import UsageError
from tests.support import texts
from tests.support.parts import squared
from tests.support.small_session import NETWORK, X

ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'sparsec[ray]'")
pytest.importorskip("kserve", reason="kserve is not installed; pip install 'sparsec[ray]'")

ROOT = Path(__file__).resolve().parents[2]
MOST_S = 300
"""Seconds that a command or a rollout may take on a machine that other programs keep busy."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


PORT, CLIENTS = free_port(), free_port()


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a core each."""
    from ray.cluster_utils import Cluster

    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                   "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": str(MOST_S)}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": CLIENTS})
    second = found.add_node(num_cpus=1)
    found.wait_for_nodes()
    ray.init(address=found.address, log_to_driver=False)
    yield found, second
    ray.shutdown()
    found.shutdown()


def deploy(folder, address, models, scaling=None, **args):
    """Have the cluster serve what the example's config says, of other models and with other arguments."""
    import yaml

    config = yaml.safe_load((ROOT / "examples" / "ray-serve.yaml").read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": PORT}
    application, = config["applications"]
    application["args"] |= args | {"models": {name: str(path) for name, path in models.items()}}
    application["deployments"][0]["autoscaling_config"] |= scaling or {}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", "--address", address, path],
                   check=True, timeout=MOST_S, cwd=ROOT)


def infer(model, x, tries=20):
    """The answer and how many requests it took: those of a machine that is lost are repeated."""
    body = json.dumps({"inputs": [{"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}]})
    for count in range(1, tries + 1):
        try:
            with urllib.request.urlopen(urllib.request.Request(
                    f"http://127.0.0.1:{PORT}/v2/models/{model}/infer", body.encode(),
                    {"Content-Type": "application/json"}), timeout=20) as answer:
                output, = json.loads(answer.read())["outputs"]
                return np.array(output["data"], np.float32).reshape(output["shape"]), count
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"not answered after {tries} requests")


@pytest.mark.parametrize(("args", "message"), [
    ({"models": {"a": "a.sparsec"}, "thread": 2}, "'thread' is unknown"), ({"threads": 2}, "give models")])
def test_wrong_configs(args, message):
    from sparsec.serving.ray_serve import application

    with pytest.raises(UsageError, match=message):
        application(args)


def test_a_replica_asks_for_the_cores_of_its_runs():
    from sparsec.serving.ray_serve import Options

    assert Options({"a": "a.sparsec", "b": "b.sparsec"}, threads=3).cores == 6


def test_the_parts_of_a_command_run_on_the_machines_of_a_cluster(cluster, tmp_path):
    calls = [parts.Part((number,)) for number in range(4)]
    script = ("import sys\nfrom sparsec.cli import parts\nfrom tests.support.parts import squared\n"
              "calls = [parts.Part((number,)) for number in range(4)]\n"
              "print(sorted(parts.run(squared, calls, sys.argv[1])))\n"
              "named = [parts.Part((1,), name) for name in parts.machines(sys.argv[1])]\n"
              "print(len(list(parts.run(squared, named, sys.argv[1]))))")
    done = subprocess.run([sys.executable, "-c", script, f"ray://127.0.0.1:{CLIENTS}"], capture_output=True, text=True,
                          check=False, cwd=ROOT, timeout=MOST_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(sorted(parts.run(squared, calls))), "2"]


def test_a_benchmark_runs_on_every_machine(cluster, tmp_path):
    onnx.save(NETWORK, tmp_path / "m.onnx")
    done = subprocess.run([sys.executable, "-m", "sparsec", "bench", tmp_path / "m.onnx", "--tune", "off", "--seconds",
                           "0.01", "--against", "none", "--on", f"ray://127.0.0.1:{CLIENTS}", "--json",
                           tmp_path / "f.json"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=MOST_S)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "f.json").read_text())) == 2


def test_a_file_is_pruned_on_a_cluster_as_on_one_machine_and_finished_parts_are_kept(cluster, tmp_path):
    rng = np.random.default_rng(0)
    onnx.save(texts.model("g (float[N, 12] x) => (float[N, 6] y) <float[12, 24] a, float[24, 24] b, float[24, 6] c> "
                          "{ h = MatMul(x, a) i = Relu(h) j = MatMul(i, b) k = Relu(j) y = MatMul(k, c) }"),
              tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((16, 12)).astype(np.float32))

    def prune(output, *more):
        done = subprocess.run([sys.executable, "-m", "sparsec", "prune", tmp_path / "m.onnx", "--inputs",
                               tmp_path / "x.npz", "--sparsity", "0.8", "-o", tmp_path / output, *more],
                              capture_output=True, text=True, check=False, cwd=ROOT, timeout=MOST_S)
        assert done.returncode == 0, done.stderr
        return (tmp_path / output).read_bytes()

    (tmp_path / "kept").mkdir()
    there = ["--on", f"ray://127.0.0.1:{CLIENTS}", "--resume", tmp_path / "kept"]
    assert prune("there.onnx", *there) == prune("here.onnx")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")}
    assert len(kept) == 3
    assert prune("again.onnx", *there) == prune("there.onnx", *there)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")} == kept


def running(version, wanted=2, x=X):
    """Wait until so many replicas of a version of the models run."""
    from ray import serve

    until = time.monotonic() + MOST_S
    while time.monotonic() < until:
        states = [deployment.replica_states for found in serve.status().applications.values()
                  for deployment in found.deployments.values()]
        if [state.get("RUNNING") for state in states] == [wanted] and all(
                infer("digits", x)[0].tobytes() in version for _ in range(8)):
            return
        time.sleep(0.25)
    raise AssertionError(states)


@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG"), reason="takes a minute")
def test_replicas_follow_the_load(cluster, tmp_path):
    """One replica at rest, another while clients wait for it, one again behind them; requests wait for their batch."""
    nodes, _ = cluster
    rng = np.random.default_rng(0)  # whole numbers, which any kernel adds to the same
    network = texts.model("g (float[n, 16] x) => (float[n, 8] y) <float[16, 8] w> { y = MatMul(x, w) }",
                          w=rng.integers(-9, 9, (16, 8)))
    artifact = sparsec.compile(network, tune="off")
    artifact.save(tmp_path / "rows.sparsec")
    x = rng.integers(-9, 9, (1, 16)).astype(np.float32)
    right = sparsec.InferenceSession(artifact).run(None, {"x": x})[0]
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 1,
               "downscale_delay_s": 2, "metrics_interval_s": 0.5, "look_back_period_s": 1}
    deploy(tmp_path, nodes.address, {"digits": tmp_path / "rows.sparsec"}, scaling, max_delay=200)
    running({right.tobytes()}, 1, x)
    done = threading.Event()

    def work(_):
        count = 0
        while not done.is_set():
            answer, _ = infer("digits", x)
            assert answer.tobytes() == right.tobytes()
            count += 1
        return count

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(work, each) for each in range(16)]
        try:
            running({right.tobytes()}, 2, x)
        finally:
            done.set()
        assert min(future.result() for future in futures) > 0
    running({right.tobytes()}, 1, x)


def test_models_are_rolled_out_and_machines_lost_without_a_failed_request(cluster, tmp_path):
    nodes, second = cluster
    right = []
    for name, scale in (("old", 1), ("new", 2)):
        model = onnx.ModelProto.FromString(NETWORK.SerializeToString())
        weight = numpy_helper.to_array(model.graph.initializer[-1])
        model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(weight * np.float32(scale), "u"))
        artifact = sparsec.compile(model, tune="off")
        artifact.save(tmp_path / f"{name}.sparsec")
        right.append(sparsec.InferenceSession(artifact).run(None, {"x": X})[0])
    old, new = (answer.tobytes() for answer in right)
    deploy(tmp_path, nodes.address, {"digits": tmp_path / "old.sparsec"})
    running({old})
    done = threading.Event()

    def work(_):
        found = []
        while not done.is_set():
            answer, count = infer("digits", X)
            assert answer.tobytes() in (old, new)
            found.append(count)
        return found

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(work, each) for each in range(8)]
        try:
            deploy(tmp_path, nodes.address, {"digits": tmp_path / "new.sparsec"})
            running({new})
            nodes.remove_node(second, allow_graceful=False)
            time.sleep(3)
        finally:
            done.set()
        counts = [count for future in futures for count in future.result()]
    assert infer("digits", X)[0].tobytes() == new
    assert len(counts) >= 8
