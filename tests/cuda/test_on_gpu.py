"""Kernels and models on a real GPU, beside numpy and onnxruntime: `pytest -m gpu`, about five minutes."""

import threading
from functools import partial

import numpy as np
import onnxruntime
import pytest

import sparsec
from sparsec.backends.cuda import cublaslt, driver
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.toolchain import version
from sparsec.cost.gpu import Device
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import SparsecError, ToolchainError
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds
from sparsec.kernels.cuda import eight_bits, mma_dense, tiles
from sparsec.kernels.cuda.codes import E4M3
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.family import CLUSTERED
from sparsec.kernels.cuda.params import MmaParams
from sparsec.machine.memory import CUDA, on_device
from sparsec.target import CUDA_ARCHS, resolve
from tests.support import decoders
from tests.support.cuda import networks
from tests.support.cuda.open_layers import dynamic, image, recurrent
from tests.support.cuda.products import FINISH, operands, packed, telling_weight
from tests.support.cuda.sass import needs_nvcc

GPU = driver.probe()
ARCH = "" if GPU is None or GPU.capability is None else "sm" + "".join(map(str, GPU.capability))
pytestmark = [pytest.mark.gpu, needs_nvcc,
              pytest.mark.skipif(ARCH.replace("sm", "sm_") not in CUDA_ARCHS,
                                 reason="there is no GPU that kernels are made for")]


def compiled(build, precision="fp16", library=""):
    """A session of a network, its inputs, and what onnxruntime computes."""
    model = build()
    feeds = random_feeds(reader.load(model))
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds)
    artifact = sparsec.compile(model, f"cuda-{ARCH}{library}", precision=precision)
    return sparsec.InferenceSession(artifact), feeds, expected


def check(found, expected, precision="fp16"):
    for mine, reference in zip(found, expected, strict=True):
        assert np.abs(mine - reference).max() <= HALF_PRECISIONS[precision] * np.abs(reference).max()


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_match_onnxruntime(build, precision):
    session, feeds, expected = compiled(build, precision)
    check(session.run(None, feeds), expected, precision)


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_cublaslt_matches_onnxruntime(precision, monkeypatch):
    try:
        cublaslt.load()
    except ToolchainError as error:
        pytest.skip(str(error))
    predict = Device.seconds
    monkeypatch.setattr(Device, "seconds", lambda self, work, threads=1: (
        1e-9 if getattr(work, "kernel", "") == "cublaslt" else predict(self, work, threads)))
    session, feeds, expected = compiled(partial(networks.transformer, prune=lambda weight: weight), precision,
                                        "+cublaslt")
    check(session.run(None, feeds), expected, precision)


def compiled_for_any_size(model, precision="fp16", **dims):
    """A session, and one of onnxruntime."""
    artifact = sparsec.compile(model, f"cuda-{ARCH}", precision=precision, dims=dims, strict=True)
    return sparsec.InferenceSession(artifact), onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"])


def tokens_of(batch, tokens, seed=0):
    shown = np.arange(tokens)[None] <= tokens // 2 + np.arange(batch)[:, None]
    return {"ids": np.random.default_rng(seed).integers(0, 50, (batch, tokens)), "mask": shown.astype(np.int64)}


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_models_of_any_size_match_onnxruntime(precision):
    session, reference = compiled_for_any_size(networks.symbolic(networks.transformer(), "batch", "sequence"),
                                               precision)
    for seed, size in enumerate([(1, 1), (2, 16), (1, 100), (3, 5), (8, 200), (1, 1), (8, 200), (2, 16)]):
        feeds = tokens_of(*size, seed)
        check(session.run(None, feeds), reference.run(None, feeds), precision)


def test_threads_record_and_replay_sizes_of_their_own():
    session, reference = compiled_for_any_size(networks.symbolic(networks.transformer(), "batch", "sequence"))
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
def test_caches_of_any_length_match_onnxruntime(text):
    session, reference = compiled_for_any_size(decoders.model_of(text))
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
def test_other_layers_of_any_size_match_onnxruntime(build, shapes, error, tmp_path):
    session, reference = compiled_for_any_size(build(tmp_path))
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


def test_threads_have_answers_of_their_own():
    session, feeds, expected = compiled(networks.network)
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


def test_tensors_of_the_gpu_go_in_and_out():
    session, feeds, expected = compiled(networks.network)
    memory = on_device(CUDA)
    found = session.run_with_device(None, {name: memory.place(array) for name, array in feeds.items()})
    check([memory.fetch(each, frozenset()) for each in found], expected)
