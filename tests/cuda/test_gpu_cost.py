"""The choice between formats on a GPU: by bytes where there are few tokens, by tensor cores where there are many."""

import numpy as np
import pytest

from sparsec.backends.cuda.products import options
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import prepare
from sparsec.cost.gpu import DEVICES
from sparsec.cost.plan import choose
from sparsec.kernels.cuda.arrange import project
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.cuda import networks

RNG = np.random.default_rng(0)
SIZE = 1536


def target(*archs):
    return resolve("cuda-" + "+".join(arch.replace("_", "") for arch in archs))


def best(weight, columns, arch, wanted=""):
    offers, refused = options(GpuProduct(weight, np.zeros(len(weight)), columns, Epilogue()), target(arch), "fp16")
    choice = choose("layer", [offer for offer in offers if offer.format.startswith(wanted)], machine=DEVICES[arch])
    return choice.winner, refused


@pytest.fixture(scope="module")
def weights():
    dense = RNG.standard_normal((SIZE, SIZE)).astype(np.float32)
    return {"dense": dense, "2:4": project(dense), "50 %": dense * (RNG.random(dense.shape) < 0.5),
            "blocks": dense * np.kron(RNG.random((SIZE // 32, SIZE // 32)) < 0.15, np.ones((32, 32))),
            "70 %": dense * (RNG.random(dense.shape) < 0.3), "90 %": dense * (RNG.random(dense.shape) < 0.1)}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("weight", "columns", "expected"), [
    ("2:4", 4096, "nm 2:4"), ("dense", 4096, "dense"), ("dense", 128, "dense"), ("50 %", 4096, "dense"),
    ("blocks", 4096, "bcsr 16x16"), ("blocks", 256, "bcsr 16x16"), ("90 %", 1, "gaps 8"), ("90 %", 4, "gaps 8"),
    ("70 %", 4096, "dense"),
])
def test_the_format_chosen(weights, arch, weight, columns, expected):
    winner, refused = best(weights[weight], columns, arch)
    assert winner.option.format == expected
    assert expected not in refused


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_few_tokens_are_a_matter_of_bytes(weights, arch):
    winner, _ = best(weights["90 %"], 1, arch)
    dense, _ = best(weights["90 %"], 1, arch, "dense")
    assert winner.option.nbytes < dense.option.nbytes / 3
    assert winner.predicted_s < dense.predicted_s


@pytest.mark.parametrize(("columns", "kernel"), [(1, "mma.sp"), (16, "mma.sp"), (4096, "wgmma.sp bulk")])
def test_warp_groups_are_for_many_tokens(weights, columns, kernel):
    assert best(weights["2:4"], columns, "sm_90", "nm 2:4")[0].option.kernel == kernel
    assert best(weights["2:4"], columns, "sm_90", "dense")[0].option.kernel.startswith(kernel.partition(".")[0])


@pytest.mark.parametrize(("precision", "columns", "kernel"), [
    ("int8", 4096, "wgmma.sp bulk int8"), ("fp8", 4096, "wgmma.sp bulk fp8"), ("fp8", 300, "wgmma.sp fp8")])
def test_two_of_four_of_bytes_by_warp_groups_are_for_many_tokens(weights, precision, columns, kernel):
    layer = GpuProduct(weights["2:4"], np.zeros(SIZE), columns, Epilogue(), ranges=(-1.0, 1.0))
    offers, _ = options(layer, target("sm_90"), precision)
    choice = choose("layer", offers, machine=DEVICES["sm_90"])
    assert choice.winner.option.kernel == kernel
    half = best(weights["2:4"], columns, "sm_90")[0]
    assert choice.winner.predicted_s < 0.95 * half.predicted_s


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_kernels_of_bytes_have_twice_the_rate_of_the_same_in_half_precision(weights, precision):
    device = DEVICES["sm_90"]
    layer = GpuProduct(weights["2:4"], np.zeros(SIZE), 4096, Epilogue(), ranges=(-1.0, 1.0))
    works = [offer.work for offer in options(layer, target("sm_90"), precision)[0] if "wgmma" in offer.kernel]
    shares = {(work.kernel, work.tile): work.rate * device.share(work) for work in works}
    named = [name for name, _ in shares if name.endswith(precision)]
    assert set(named) == {f"{name} {precision}" for name in ("wgmma", "wgmma.sp", "wgmma bulk", "wgmma.sp bulk")}
    for (name, tile), share in shares.items():
        assert share == (2 if name in named else 1) * shares[name.removesuffix(f" {precision}"), tile]


ARRANGED = {"nm 2:4": 4, "nm 4:6": 6, "nm 6:8": 8, "dense": 2}


@pytest.mark.parametrize("form", ARRANGED)
def test_every_packing_is_served_by_single_warps_and_by_warp_groups(form):
    weight = np.ones((64, 4, ARRANGED[form]), np.float32)
    weight[..., 2:][..., -2:] = 0
    offers, refused = options(GpuProduct(weight.reshape(64, -1), np.zeros(64), 64, Epilogue()), target("sm_90"), "bf16")
    kernels = {offer.kernel for offer in offers if offer.format == form}
    assert kernels in ({"mma", "wgmma"}, {"mma.sp", "wgmma.sp"})
    assert "wgmma" not in refused


@pytest.mark.parametrize("archs", [("sm_80",), ("sm_80", "sm_90")])
def test_warp_groups_are_for_one_architecture(weights, archs):
    offers, refused = options(GpuProduct(weights["2:4"], np.zeros(SIZE), 4096, Epilogue()), target(*archs), "fp16")
    assert {offer.kernel for offer in offers} == {"mma", "mma.sp"}
    assert ("compile with --target cuda-sm90" in refused.get("wgmma", "")) == ("sm_90" in archs)


@pytest.mark.parametrize(("arch", "kernel"), [("sm_80", "mma blocks"), ("sm_90", "wgmma blocks")])
def test_large_empty_blocks_of_many_tokens_are_for_warp_groups(arch, kernel):
    weight = np.kron(RNG.random((SIZE // 128, SIZE // 64)) < 0.2, np.ones((128, 64), np.float32))
    assert best(weight, 4096, arch)[0].option.kernel == kernel


@pytest.mark.parametrize("weight", ["2:4", "50 %"])
@pytest.mark.parametrize("columns", [1, 1024])
def test_never_slower_than_dense_and_the_same_every_time(weights, weight, columns):
    winner, _ = best(weights[weight], columns, "sm_86")
    assert winner.predicted_s <= best(weights[weight], columns, "sm_86", "dense")[0].predicted_s
    assert winner == best(weights[weight], columns, "sm_86")[0]


# Microseconds on an H200 by the prototype of these kernels (a warp's slots filled by asynchronous copies).
MEASURED = [((4096, 4096), 0.1, {("gaps 8", 1): 4.7, ("gaps 8", 4): 7.1, ("bitmap", 1): 9.5, ("bitmap", 8): 9.9}),
            ((4096, 4096), 0.5, {("gaps 8", 1): 10.1, ("gaps 8", 4): 14.7, ("bitmap", 1): 11.5, ("bitmap", 8): 12.0})]


@pytest.mark.parametrize(("shape", "density", "times"), MEASURED)
def test_unstructured_weights_of_few_tokens_are_priced_as_measured(shape, density, times):
    weight = (RNG.random(shape, np.float32) < density).astype(np.float32)
    for (form, columns), microseconds in times.items():
        winner, _ = best(weight, columns, "sm_90", form)
        assert 0.65 < winner.predicted_s * 1e6 / microseconds < 1.3, (form, columns)


def test_formats_that_cannot_be_have_reasons(weights):
    _, refused = best(weights["dense"], 128, "sm_80")
    assert refused.keys() == {"nm 2:4", "nm 2:4 permuted", "nm 4:6", "nm 6:8", "bitmap", "gaps 8", "bcsr 16x16",
                              "nm 2:4 + rest"}
    assert "more than 2 non-zeros" in refused["nm 2:4"]
    assert "50.0 % of weights left over" in refused["nm 2:4 + rest"]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_rest_is_not_offered_where_it_was_not_measured_to_win(weights, arch):
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(weights["90 %"].T), name="y")
    options = CompileOptions(target(arch).name)
    prepared = prepare(graph.model({"x": (1, [64, SIZE])}, {"y": [64, SIZE]}), options)
    (node,) = [each for each in prepared.graph.graph if each.op_type == "MatMul"]
    offers, refused = prepared.backend.offers(node, prepared.job)
    assert "rest" not in " ".join(offer.format for offer in offers)
    assert "791 us" in refused["nm 2:4 + rest"]


def test_two_of_four_needs_no_rest(weights):
    _, refused = best(weights["2:4"], 128, "sm_80")
    assert refused["nm 2:4 + rest"] == "the weight is nm 2:4"
    _, refused = best(weights["90 %"][:, 2:], 128, "sm_80")
    assert "not a multiple of 4" in refused["nm 2:4 + rest"]


def test_the_rest_shows_in_bytes_and_detail(weights):
    rest, _ = best(weights["90 %"], 4096, "sm_80", "nm 2:4 + rest")
    regular, _ = best(weights["2:4"], 4096, "sm_80", "nm 2:4")
    assert "rest=0.10%" in rest.option.detail
    assert regular.option.nbytes < rest.option.nbytes < 1.1 * regular.option.nbytes
    assert regular.predicted_s < rest.predicted_s
