"""Weights of few rows come from where the whole network's stay; what is measured there holds there alone."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.cost.option import Option, Work
from sparsec.cost.plan import choose
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.cost.tuning import CACHED_BYTES, key
from sparsec.graph.annotations import NETWORK
from sparsec.graph.reader import load
from sparsec.kernels.cpu.rows import FAMILIES
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.passes import weigh
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.targets import isa
from tests.support.texts import model

CPU = resolve("cpu-avx2")
SLOW = replace(DEFAULT_MACHINE, fmas_per_s=1e6)


def test_layers_learn_how_much_of_the_network_they_are():
    graph = load(model("""g (int64[1] i) => (float[1,6] y) <float[1000,8] t, float[8,4] a, float[4,6] b> {
        e = Gather(t, i) h = MatMul(e, a) y = MatMul(h, b) }"""))
    weigh.run(graph, Context(CPU))
    shares = [NETWORK.get(node) for node in graph.graph]
    assert [share for share in shares if share] == pytest.approx([(32 + 24) / 32, (32 + 24) / 24])


@pytest.mark.parametrize(("network", "level"), [(0.4, "l2_bytes"), (4, "l3_bytes"), (40, "memory_bytes")])
def test_weights_come_from_the_cache_that_holds_the_network(network, level):
    weight = np.ones((64, 128), np.float32)
    layer = RowProduct(weight, np.zeros(64, np.float32), Matvec(64, 128),
                       network=network * CPU.l2_bytes / weight.nbytes)
    option, *_ = FAMILIES["gemv"].offers(layer, CPU, isa("cpu-avx2"), "fp32")
    levels = {name: getattr(option.work, name) for name in ("l2_bytes", "l3_bytes", "memory_bytes")}
    assert levels.pop(level) == weight.nbytes
    assert not any(levels.values())


def test_a_dense_kernel_is_timed_even_where_it_is_predicted_to_be_slow():
    dense, sparse = (Option(name, name, "", name, 8, Work(fmas, 0)) for name, fmas in (("dense", 2e6), ("csr", 1e6)))
    measured = {"dense": 1.0, "csr": 3.0}
    assert choose("layer", [dense, sparse], machine=SLOW).winner.option is sparse
    timed = choose("layer", [dense, sparse], machine=SLOW, measure=lambda option, times=1: measured[option.kernel])
    assert timed.winner.option is dense


def test_times_of_small_networks_are_their_own():
    option = Option("dense", "gemv", "", "p", CACHED_BYTES // 8, Work(1, 1))
    names = [key(option, CPU, 1, "m", network) for network in (None, 9.0, 20.0, 2.0, 4.0)]
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == 3
