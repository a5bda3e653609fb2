"""Kernels and models on a real GPU, beside numpy and onnxruntime, models with kernels that wait for others to end and
with kernels that are launched early: `pytest -m gpu`, about twenty minutes, not timed.
"""

import threading
from functools import partial

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

import sparsec
from sparsec.backends.cuda import cublaslt
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.toolchain import version
from sparsec.cost.gpu import Device
from sparsec.cost.precisions import GPU_PRECISIONS, HALF_PRECISIONS
from sparsec.errors import SparsecError, ToolchainError
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds
from sparsec.kernels.cuda import eight_bits, mma_dense, tiles
from sparsec.kernels.cuda.codes import E4M3
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.family import CLUSTERED
from sparsec.kernels.cuda.params import MmaParams
from sparsec.machine.memory import CUDA, on_device
from sparsec.target import resolve
from tests.support import decoders
from tests.support.cuda import networks
from tests.support.cuda.gpu import ARCH, EARLY, NEEDED, WAYS
from tests.support.cuda.open_layers import dynamic, image, recurrent
from tests.support.cuda.products import FINISH, operands, packed, telling_weight

pytestmark = NEEDED


@pytest.fixture(params=WAYS)
def launch(request):
    """How kernels are launched, for `dependent_launch`."""
    return request.param


def compiled(build, launch, precision="fp16", library=""):
    """A session of a network, its inputs, and what onnxruntime computes."""
    model = build()
    feeds = random_feeds(reader.load(model))
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds)
    artifact = sparsec.compile(model, f"cuda-{ARCH}{library}", precision=precision, dependent_launch=launch)
    return sparsec.InferenceSession(artifact), feeds, expected


def check(found, expected, precision="fp16"):
    for mine, reference in zip(found, expected, strict=True):
        assert np.abs(mine - reference).max() <= GPU_PRECISIONS[precision] * np.abs(reference).max()


def prefer(monkeypatch, name):
    """Let layers choose the kernels whose names end so, where they are offered any."""
    predict = Device.seconds
    monkeypatch.setattr(Device, "seconds", lambda self, work, threads=1: (
        1e-9 if getattr(work, "kernel", "").endswith(name) else predict(self, work, threads)))


def eight_bits_of(model, launch, precision, inputs=None):
    """The kernels of a model in 8 bits, what it computes, and what onnxruntime computes."""
    feeds = random_feeds(reader.load(model))
    artifact = sparsec.compile(model, f"cuda-{ARCH}", precision=precision, dependent_launch=launch, verify=False,
                               inputs=feeds if inputs else None)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds)
    return {each["kernel"] for each in artifact.report["layers"]}, sparsec.InferenceSession(artifact).run(
        None, feeds), expected


@pytest.mark.parametrize("precision", ["int8", pytest.param("fp8", marks=pytest.mark.skipif(
    ARCH not in ("sm89", "sm90"), reason="the GPU has no products of e4m3"))])
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_of_8_bits_by_samples_match_onnxruntime(build, precision, launch, monkeypatch):
    monkeypatch.setattr(networks, "RNG", np.random.default_rng(0))
    prefer(monkeypatch, precision)
    kernels, found, expected = eight_bits_of(build(), launch, precision, inputs=True)
    assert any(each.endswith(precision) for each in kernels)
    check(found, expected, precision)


def test_weights_of_bytes_for_one_token_match_onnxruntime(launch, monkeypatch):
    prefer(monkeypatch, "gaps int8")
    graph = networks.Graph(networks.unstructured)
    graph.linear("x", 512, 1024, name="y")
    model = graph.model({"x": (TensorProto.FLOAT, [1, 1024])}, {"y": [1, 512]})
    kernels, found, expected = eight_bits_of(model, launch, "int8")
    assert kernels == {"gaps int8"}
    check(found, expected, "int8")


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_match_onnxruntime(build, precision, launch):
    session, feeds, expected = compiled(build, launch, precision)
    check(session.run(None, feeds), expected, precision)


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_cublaslt_matches_onnxruntime(precision, launch, monkeypatch):
    try:
        cublaslt.load()
    except ToolchainError as error:
        pytest.skip(str(error))
    prefer(monkeypatch, "cublaslt")
    session, feeds, expected = compiled(partial(networks.transformer, prune=lambda weight: weight), launch, precision,
                                        "+cublaslt")
    check(session.run(None, feeds), expected, precision)


def compiled_for_any_size(model, launch, precision="fp16"):
    """A session, and one of onnxruntime."""
    artifact = sparsec.compile(model, f"cuda-{ARCH}", precision=precision, dependent_launch=launch, strict=True)
    return sparsec.InferenceSession(artifact), onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"])


def tokens_of(batch, tokens, seed=0):
    shown = np.arange(tokens)[None] <= tokens // 2 + np.arange(batch)[:, None]
    return {"ids": np.random.default_rng(seed).integers(0, 50, (batch, tokens)), "mask": shown.astype(np.int64)}


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_models_of_any_size_match_onnxruntime(precision, launch):
    session, reference = compiled_for_any_size(networks.symbolic(networks.transformer(), "batch", "sequence"),
                                               launch, precision)
    for seed, size in enumerate([(1, 1), (2, 16), (1, 100), (3, 5), (8, 200), (1, 1), (8, 200), (2, 16)]):
        feeds = tokens_of(*size, seed)
        check(session.run(None, feeds), reference.run(None, feeds), precision)


def test_threads_record_and_replay_sizes_of_their_own(launch):
    session, reference = compiled_for_any_size(networks.symbolic(networks.transformer(), "batch", "sequence"), launch)
    failures = []

    def work(number):
        try:
            for turn in range(60):
                feeds = tokens_of(1 + number % 3, 1 + (7 * turn + number) % 40, turn)
                check(session.run(None, feeds), reference.run(None, feeds))
        except (AssertionError, SparsecError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("text", [decoders.DECODER, decoders.GROUPED], ids=["concat", "grouped"])
def test_caches_of_any_length_match_onnxruntime(text, launch):
    session, reference = compiled_for_any_size(decoders.model_of(text), launch)
    rng, empty = np.random.default_rng(0), np.zeros((1, decoders.GROUPS, 0, decoders.DEPTH), np.float32)
    own = theirs = [empty, empty]
    for tokens in (5, 1, 1, 3, *[1] * 80):
        feeds = {"ids": rng.integers(0, 9, (1, tokens)), "mask": np.ones((1, own[0].shape[2] + tokens), np.int64)}
        feeds = {name: array for name, array in feeds.items() if name in {each.name for each in session.get_inputs()}}
        found = session.run(None, feeds | dict(zip(("keys", "values"), own, strict=True)))
        expected = reference.run(None, feeds | dict(zip(("keys", "values"), theirs, strict=True)))
        check(found, expected)
        own, theirs = found[1:], expected[1:]


@pytest.mark.parametrize(("build", "shapes", "error"), [
    (lambda _: recurrent("LSTM", 20, ""), [(1, 1, 8), (3, 60, 8), (32, 6, 8)], HALF_PRECISIONS["fp16"]),
    (lambda _: image(), [(1, 4, 16, 16), (2, 4, 122, 70)], HALF_PRECISIONS["fp16"]),
    (dynamic, [(2, 7, 32), (1, 1, 32), (5, 40, 32)], 0.02),  # codes of numbers half-way between two
], ids=["LSTM", "images", "dynamic quantisation"])
def test_other_layers_of_any_size_match_onnxruntime(build, shapes, error, launch, tmp_path):
    session, reference = compiled_for_any_size(build(tmp_path), launch)
    for shape in (*shapes, *shapes):  # the second time what is recorded is replayed
        feeds = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
        for mine, other in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
            assert np.abs(mine - other).max() <= error * np.abs(other).max()


def runs(family, arch):
    """Whether an architecture runs a family's kernels for every layer; single warps of sm_90 convert e4m3."""
    if family.dtype == E4M3 and not family.architecture and f"sm_{arch[2:]}" not in eight_bits.FP8_ARCHS:
        return False
    return (not family.precision or bool(family.dtype)) and family.architecture in ("", f"sm_{arch[2:]}a")


def kernels(arch):
    """Every tile of every family that a GPU runs, of floats or of codes; and a cluster where it has such."""
    for family in GENERATED.values():
        if runs(family, arch):
            for tile in tiles.candidates(1 << 20, 1 if family.dtype else 2, family.tiles):
                more = {"dtype": family.dtype, "out": "float32"} if family.dtype else {}
                more |= {"x": "uint8"} if family.dtype == "int8" else {}
                p = MmaParams(2 * tile.rows + 8, tile.columns + 3, 9 * tile.depth + 16, tile, epilogue=FINISH, **more)
                yield pytest.param(family, p, id=f"{family.name}, {tile}")
    if f"sm_{arch[2:]}" in CLUSTERED:
        tile = tiles.TILES[8]
        p = MmaParams(2 * tile.rows + 8, tile.columns + 3, 9 * tile.depth + 16, tile, epilogue=FINISH, split_k=4,
                      cluster=True)
        yield pytest.param(mma_dense.FAMILY, p, id=f"{mma_dense.FAMILY.name}, {tile}, a cluster")


@pytest.mark.sampled(0.6)
@pytest.mark.parametrize(("family", "p"), kernels(ARCH))
def test_kernels_are_exact(family, p):
    from sparsec.backends.cuda.measuring import compiled as compiled_kernel
    from sparsec.backends.cuda.measuring import loaded

    if tiles.reject(family.shared_bytes(family.params(telling_weight(family, p), p)), ARCH.replace("sm", "sm_")):
        pytest.skip("the GPU has less shared memory")
    weight = telling_weight(family, p)
    params, arrays = packed(family, p, weight)
    inputs, expected = operands(p, arrays, np.random.default_rng(0), weight)
    library, archs = compiled_kernel(family.name, params, resolve(f"cuda-{ARCH}"))
    memory = open_memory(archs, version())
    given = [memory.place(each) for each in (*inputs.values(), np.zeros_like(expected))]
    loaded(library)(*given)
    np.testing.assert_array_equal(memory.fetch(given[-1], frozenset()), expected)


def test_threads_have_answers_of_their_own(launch):
    session, feeds, expected = compiled(networks.network, launch)
    failures = []

    def work():
        try:
            for _ in range(200):
                check(session.run(None, feeds), expected)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@EARLY
def test_both_ways_of_launching_are_timed():
    overlap = sparsec.compile(networks.network(), f"cuda-{ARCH}").report["overlap"]
    assert overlap["off_us"] > 0
    assert overlap["early"] == (overlap["on_us"] <= 0.98 * overlap["off_us"])


def test_tensors_of_the_gpu_go_in_and_out(launch):
    session, feeds, expected = compiled(networks.network, launch)
    memory = on_device(CUDA)
    found = session.run_with_device(None, {name: memory.place(array) for name, array in feeds.items()})
    check([memory.fetch(each, frozenset()) for each in found], expected)
