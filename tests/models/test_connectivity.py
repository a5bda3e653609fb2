"""Effective sparsity on PyTorch models: a weight is active exactly when the output depends on it."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

from sparsec.errors import CollapseError, PruningError  # noqa: E402 - after the skip
from sparsec.models.connectivity import active, check_connected  # noqa: E402
from sparsec.models.masks import apply_masks, kept, prunable, size  # noqa: E402
from sparsec.models.networks import NETWORKS, Network  # noqa: E402
from sparsec.models.networks.bert import bert  # noqa: E402


class Branches(nn.Module):
    """A residual, a concatenation, a product and every way to pool."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.body = nn.Conv2d(3, 3, 1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 2, groups=6, bias=False)
        self.gate = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = torch.cat([x + self.body(x), nn.functional.avg_pool2d(x, 3, 1, 1)], dim=1)
        x = nn.functional.max_pool2d(self.depthwise(x), 2).mean((2, 3))
        return self.head(x * torch.sigmoid(self.gate(x)))


SMALL = {
    "fully connected": (lambda: nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.LeakyReLU(), nn.Linear(5, 4, bias=False), nn.Tanh(),
        nn.Linear(4, 2, bias=False),
    ), (4,)),
    "convolutional": (lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2, bias=False),
    ), (2, 4, 4)),
    "one-dimensional": (lambda: nn.Sequential(
        nn.Conv1d(2, 3, 3, stride=2, bias=False), nn.LeakyReLU(), nn.Flatten(), nn.Linear(9, 2, bias=False),
    ), (2, 7)),
    "branches": (Branches, (2, 5, 5)),
}  # fmt: skip


def random_masks(model, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(w.shape, generator=generator) >= sparsity for name, w in prunable(model).items()}


def brute_force(model, masks, x):
    """The kept weights whose removal changes an output."""
    apply_masks(model, masks)
    with torch.no_grad():
        before = model(x)
        found = {name: torch.zeros_like(mask) for name, mask in masks.items()}
        for name, mask in masks.items():
            flat = model.get_parameter(name).view(-1)
            for index in mask.flatten().nonzero().flatten():
                value, flat[index] = flat[index].clone(), 0.0
                found[name].view(-1)[index] = bool((model(x) - before).abs().max() > 1e-12)
                flat[index] = value
    return found


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=12, deadline=None)
@given(sparsity=st.sampled_from([0.0, 0.4, 0.6, 0.8]), seed=st.integers(0, 1000))
def test_active_weights_are_those_that_matter(name, sparsity, seed):
    make, shape = SMALL[name]
    torch.manual_seed(seed)
    model = make().double().eval()
    masks = random_masks(model, sparsity, seed)
    expected = brute_force(model, masks, torch.randn(64, *shape, dtype=torch.float64))
    reachable = active(model, masks, (torch.zeros(1, *shape),))
    if name == "branches":  # a product counts as a sum, so that more may be active
        assert all((reachable[layer] | ~expected[layer]).all() for layer in masks)
    else:
        assert all(torch.equal(reachable[layer], expected[layer]) for layer in masks)


def test_attention_never_loses_an_active_weight():
    model = Network(lambda: bert(1, 8, 2, 20, 6, 2), (6,)).build(0).double()
    masks = random_masks(model, 0.8, seed=0)
    tokens = torch.randint(0, 20, (32, 6))
    expected, reachable = brute_force(model, masks, tokens), active(model, masks, (tokens[:1],))
    assert all((reachable[layer] | ~expected[layer]).all() for layer in masks)


def test_figure_1():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    rows = {"0.weight": [[1, 1, 1], [1, 1, 0], [0, 0, 0]], "2.weight": [[1, 0, 0], [0, 0, 1], [0, 0, 1]],
            "4.weight": [[1, 1, 0]]}
    masks = {name: torch.tensor(row, dtype=torch.bool) for name, row in rows.items()}
    assert (size(masks), kept(masks), kept(active(model, masks, (torch.zeros(1, 3),)))) == (21, 10, 5)


@pytest.mark.parametrize(("sparsity", "low", "high"), [(0.9, 10, 11), (0.98, 120, 250), (0.99, 700, 1700)])
def test_random_pruning_cuts_off_most_of_what_it_leaves(sparsity, low, high):
    model = NETWORKS["lenet300"].build(0)
    ratios = []
    for seed in range(20):
        masks = random_masks(model, sparsity, seed)
        ratios.append(size(masks) / kept(active(model, masks, (torch.zeros(1, 784),))))
    assert low < statistics.median(ratios) < high


@pytest.mark.parametrize("name", ["lenet5", "vgg16", "mobilenetv2"])
def test_dense_networks_are_fully_active(name):
    model = NETWORKS[name].build(0)
    masks = random_masks(model, 0.0, 0)
    assert kept(active(model, masks, (NETWORKS[name].example(),))) == size(masks)


def test_collapse_names_the_layer():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    masks = {"0.weight": torch.zeros(3, 3, dtype=torch.bool), "1.weight": torch.ones(1, 3, dtype=torch.bool)}
    with pytest.raises(CollapseError, match=r"layer '0\.weight' keeps 0 of its 9"):
        check_connected(masks, active(model, masks, (torch.zeros(1, 3),)), "this")


def test_unknown_operations_are_named():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return torch.linalg.qr(self.layer(x)).R

    model = Unknown()
    with pytest.raises(PruningError, match="linalg_qr"):
        active(model, random_masks(model, 0.0, 0), (torch.zeros(3, 3),))
