"""InferenceSession: onnxruntime's interface, any caller's arrays, any number of threads, TVM's runtime alone."""

import multiprocessing
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sparsec import InferenceSession
from sparsec.errors import ArtifactError, InputError, UsageError
from sparsec.machine import cpus
from sparsec.runtime.fitness import check_machine
from sparsec.runtime.onnxruntime_arguments import tell
from tests.support.programs import OFFSET, parallel_artifact, signature_artifact

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
K = np.array([2**40, -7])
FEEDS = {"x": X, "k": K, "m": np.array(True)}
NUMBERS = np.arange(64, dtype=np.float32)


@pytest.fixture(scope="module")
def session():
    return InferenceSession(signature_artifact())


def check(outputs, x=X):
    for actual, expected in zip(outputs, [x + OFFSET, K, np.array(False), x.reshape(5, 3), OFFSET], strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_a_machine_without_the_gpu_that_code_was_compiled_for_is_refused():
    artifact = signature_artifact()
    check_machine(artifact)
    with pytest.raises(ArtifactError, match=r"compiled for sm_80 .* there is no|holds code for sm_80"):
        check_machine(replace(artifact, manifest=replace(artifact.manifest, target="cuda-sm80",
                                                         needs={"archs": ("sm_80",), "ptx": (99, 0)})))


@pytest.mark.parametrize(("asked", "threads"), [(0, 2), (1, 1), (9, 2)])
def test_a_session_takes_what_callers_of_onnxruntime_pass(asked, threads):
    artifact = signature_artifact()
    artifact = replace(artifact, manifest=replace(artifact.manifest, threads=2))
    options = SimpleNamespace(intra_op_num_threads=asked)
    tell.cache_clear()
    others = ["TensorrtExecutionProvider", ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
    with pytest.warns(UserWarning, match="ignore providers"):
        session = InferenceSession(artifact, options, others)
    with warnings.catch_warnings(action="error"):  # once is enough, and the processor is where it runs
        InferenceSession(artifact, options, others)
        named = InferenceSession(artifact, sess_options=options, providers=["CPUExecutionProvider"],
                                 provider_options=[{}])
    assert named.get_providers() == ["CPUExecutionProvider"]
    assert session.threads == named.threads == min(threads, cpus.available())
    assert "'x' (float32 [3, 5])" in repr(session)
    check(session.run(None, FEEDS))


def test_signature_reads_as_in_onnxruntime(session):
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("x", [3, 5], "tensor(float)"), ("k", [2], "tensor(int64)"), ("m", [], "tensor(bool)")]
    assert [o.name for o in session.get_outputs()] == ["sum", "k_out", "not", "reshaped", "constant"]


def test_run_answers_in_order(session):
    check(session.run(None, FEEDS))
    check(session.run([], FEEDS))
    np.testing.assert_array_equal(session.run(["reshaped", "sum"], FEEDS)[1], X + OFFSET)


def test_a_resident_call_computes_the_same_again_and_again(session):
    call = session.resident(FEEDS)
    for _ in range(2):
        check([np.from_dlpack(tensor) for tensor in call()])
    with pytest.raises(InputError, match="takes the inputs 'x'"):
        session.resident({"x": X})


def test_a_session_opens_paths_bytes_and_artifacts(tmp_path):
    signature_artifact().save(tmp_path / "model.sparsec")
    for source in (tmp_path / "model.sparsec", str(tmp_path / "model.sparsec"), signature_artifact().to_bytes()):
        check(InferenceSession(source).run(None, FEEDS))


def unaligned(array):
    storage = np.empty(array.nbytes + 1, np.uint8)
    view = storage[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize("prepare", [
    unaligned, read_only, np.asfortranarray, np.ndarray.tolist,
    lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    lambda a: a.astype(a.dtype.newbyteorder()),
    lambda a: a.view(np.matrix),
], ids=["unaligned", "read-only", "fortran", "list of doubles", "strided", "reversed", "other endian", "subclass"])
def test_any_array_of_the_right_type_will_do(session, prepare):
    x = prepare(X)
    if isinstance(x, list):
        with pytest.raises(InputError, match=r"takes float32 .* given: float64"):
            session.run(None, {**FEEDS, "x": x})
    else:
        check(session.run(None, {**FEEDS, "x": x}))


@pytest.mark.parametrize(("change", "message"), [
    ({"x": X.astype(np.float64)}, r"input 'x' takes float32 of shape \(3, 5\); given: float64 of shape \(3, 5\)"),
    ({"x": X.T}, r"given: float32 of shape \(5, 3\); compile for other sizes"),
    ({"x": X[0]}, r"given: float32 of shape \(5,\)"),
    ({"x": "text"}, "input 'x' takes float32"),
    ({"x": None}, "input 'x' takes float32"),
    ({"k": np.int64(3)}, r"input 'k' takes int64 of shape \(2,\); given: int64 of shape \(\)"),
    ({"typo": X}, r"takes the inputs 'x' \(float32 \[3, 5\]\).*given: 'x', 'k', 'm', 'typo'"),
])
def test_a_wrong_feed_is_refused_with_what_was_expected(session, change, message):
    with pytest.raises(InputError, match=message):
        session.run(None, {**FEEDS, **change})
    check(session.run(None, FEEDS))


def test_a_missing_feed_is_refused(session):
    with pytest.raises(InputError, match="given: 'x', 'y', 'm'"):
        session.run(None, {"x": X, "y": K, "m": np.array(True)})
    with pytest.raises(InputError, match="given: none"):
        session.run(None, {})


def test_an_unknown_output_is_refused(session):
    with pytest.raises(InputError, match="no output 'z'; it has 'sum'"):
        session.run(["z"], FEEDS)


def test_outputs_own_their_memory(session):
    first = session.run(None, FEEDS)
    for output in session.run(None, FEEDS):
        output[...] = 1
    session.run(None, {**FEEDS, "x": -X})
    check(first)
    check(session.run(None, FEEDS))


def test_outputs_outlive_the_session():
    outputs = InferenceSession(signature_artifact()).run(None, FEEDS)
    check(outputs)


def test_several_threads_share_a_session(session):
    def work(seed):
        x = np.full((3, 5), seed, np.float32)
        for _ in range(200):
            check(session.run(None, {**FEEDS, "x": x}), x)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def threads_used(session):
    doubled, threads = session.run(None, {"x": NUMBERS})
    np.testing.assert_array_equal(doubled, 2 * NUMBERS)
    return len(set(threads))


@pytest.mark.parametrize("order", [(1, 2, 1), (2, 1, 2)])
def test_sessions_of_different_thread_counts_alternate(order):
    sessions = [InferenceSession(parallel_artifact(), threads=threads) for threads in order]
    assert [threads_used(session) for session in sessions * 3] == [*order] * 3


def test_a_later_session_may_use_more_threads():
    def in_order(*counts):
        return [threads_used(InferenceSession(parallel_artifact(3), threads=threads)) for threads in counts]

    with ThreadPoolExecutor(1) as pool:  # a fresh thread, so that TVM has no pool for it yet
        assert pool.submit(in_order, 1, 3, 2).result() == [1, 3, 2]


def test_more_threads_than_compiled_for_are_refused():
    for threads in (3, 0):
        with pytest.raises(UsageError, match=f"threads={threads}.*1 to 2"):
            InferenceSession(parallel_artifact(2), threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_can_use_the_session(threads):
    session = InferenceSession(parallel_artifact(), threads=threads)
    assert threads_used(session) == threads
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(threads_used(session)))
    child.start()
    assert queue.get(timeout=60) == threads
    child.join()
    assert threads_used(session) == threads


ALONE = """
import os, sys, numpy as np
from sparsec import InferenceSession
session = InferenceSession(sys.argv[1])
cores = os.sched_getaffinity(0)
session.run(None, {"x": np.ones(64, np.float32)})
maps = open("/proc/self/maps").read()
assert "libtvm_runtime.so" in maps and "libtvm_compiler" not in maps
assert "tvm" not in sys.modules and "onnx" not in sys.modules
assert os.sched_getaffinity(0) == cores
"""


def test_running_needs_the_runtime_alone(tmp_path):
    parallel_artifact().save(tmp_path / "model.sparsec")
    done = subprocess.run([sys.executable, "-c", ALONE, tmp_path / "model.sparsec"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_light():
    code = "import sys, sparsec; print([m for m in ('tvm', 'tvm_ffi', 'numpy', 'torch', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_library_that_is_none_is_refused():
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        InferenceSession(replace(signature_artifact(), library=b"not an object"))


@pytest.fixture
def no_linker(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_linker")
@pytest.mark.parametrize("compiled", [signature_artifact, parallel_artifact])
def test_object_files_serve_where_no_linker_is(tmp_path, compiled):
    artifact = compiled.__wrapped__()
    assert artifact.manifest.objects
    artifact.save(tmp_path / "model.sparsec")
    session = InferenceSession(tmp_path / "model.sparsec")
    feeds = {i.name: np.zeros(i.shape, spec.dtype) for i, spec in zip(session.get_inputs(), artifact.manifest.inputs,
                                                                      strict=True)}
    linked = InferenceSession(compiled()).run(None, feeds)[0]
    np.testing.assert_array_equal(session.run(None, feeds)[0], linked)


@pytest.mark.usefixtures("no_linker")
def test_object_files_that_are_none_are_refused():
    artifact = signature_artifact.__wrapped__()
    with pytest.raises(ArtifactError, match="cannot be linked"):
        InferenceSession(replace(artifact, library=b"?" * len(artifact.library)))
