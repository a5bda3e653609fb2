"""Layer-wise quotas meet definition 1 of Vysogorets & Kempe on the layer sizes of real networks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.errors import PruningError, UsageError
from sparsec.models.quotas import QUOTAS, layer_sparsities

VGG16 = [(a, b, 3, 3) for b, a in zip(
    [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512],
    [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], strict=True)]
STAGES = [(64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3)]  # input, width and blocks
NETWORKS = {
    "lenet300": [(300, 784), (100, 300), (10, 100)],
    "lenet5": [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)],
    "vgg16": [*VGG16, (10, 512)],
    "resnet50": [
        (64, 3, 7, 7),
        *(shape for first, width, blocks in STAGES for block in range(blocks) for shape in (
            (width, first if block == 0 else 4 * width, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))),
        *((4 * width, first, 1, 1) for first, width, _ in STAGES),
        (1000, 2048),
    ],
}
SPARSITIES = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 0.9999]
shapes = st.lists(st.lists(st.integers(1, 600), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8)


def check_definition(shapes, layers, sparsity):
    sizes = [math.prod(shape) for shape in shapes]
    assert np.dot(layers, sizes) == pytest.approx(sparsity * sum(sizes), rel=1e-9, abs=1e-6)
    assert all(0 <= layer < 1 for layer in layers) or sparsity == 1


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("quota", sorted(set(QUOTAS) - {"uniform+"}))
def test_quotas_are_valid_everywhere(quota, network, sparsity):
    check_definition(NETWORKS[network], layer_sparsities(quota, NETWORKS[network], sparsity), sparsity)


@given(shapes, st.floats(1e-12, 0.99999))
def test_igq_is_valid_for_any_layers(shapes, sparsity):
    check_definition(shapes, layer_sparsities("igq", shapes, sparsity), sparsity)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("quota", sorted(set(QUOTAS) - {"uniform+"}))
def test_quotas_are_monotone_in_every_layer(quota, network):
    rows = np.array([layer_sparsities(quota, NETWORKS[network], sparsity) for sparsity in SPARSITIES])
    assert (np.diff(rows, axis=0) >= -1e-12).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_igq_prunes_larger_layers_more(network):
    sizes = [math.prod(shape) for shape in NETWORKS[network]]
    layers = np.array(layer_sparsities("igq", NETWORKS[network], 0.9))
    assert (np.diff(layers[np.argsort(sizes)]) >= -1e-12).all()


def test_smart_ratio_keeps_less_in_later_layers():
    layers = layer_sparsities("smart-ratio", [(100, 100)] * 4, 0.9)
    assert np.allclose((1 - np.array(layers)) / (1 - layers[-1]), [10, 6, 3, 1])


def test_uniform_plus_spares_the_ends_and_states_its_range():
    layers = layer_sparsities("uniform+", NETWORKS["vgg16"], 0.9)
    check_definition(NETWORKS["vgg16"], layers, 0.9)
    assert layers[0] == 0
    assert layers[-1] == 0.8
    with pytest.raises(PruningError, match=r"0 <= sparsity < 0\.9998"):
        layer_sparsities("uniform+", NETWORKS["vgg16"], 0.9999)


@pytest.mark.parametrize(("quota", "sparsity", "message"), [("tiny", 0.5, "igq"), ("igq", 1.5, r"0 \.\.\. 1")])
def test_wrong_use_is_explained(quota, sparsity, message):
    with pytest.raises(UsageError, match=message):
        layer_sparsities(quota, NETWORKS["lenet5"], sparsity)
