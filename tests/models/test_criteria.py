"""The scores of the criteria against their definitions."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

from sparsec.errors import PruningError  # noqa: E402
from sparsec.models.criteria import CRITERIA  # noqa: E402
from sparsec.models.criteria.context import Context  # noqa: E402
from sparsec.models.criteria.obs import columns, compensate  # noqa: E402
from sparsec.models.masks import dense_masks, prunable  # noqa: E402
from tests.support.small_networks import IMAGES, data  # noqa: E402 - after the skip


def context(model, inputs, batches=(), loss=nn.functional.cross_entropy):
    weights = prunable(model)
    return Context(model, weights, dense_masks(weights), (inputs,), batches, loss)


@pytest.fixture
def quadratic():
    """L(w) = 2 w1^2 + w2^2 / 2 at (0.1, -0.3): the survey's illustration (Hoefler et al. 2021, 3.5.4)."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.1, -0.3]]))
    batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
    return context(model, torch.ones(1, 2), [batch], nn.functional.mse_loss)


@pytest.mark.parametrize(("criterion", "scores"), [
    ("magnitude", [0.1, 0.3]),
    ("snip", [0.04, 0.09]),
    ("taylor", [0.0016, 0.0081]),
    ("grasp", [0.1 * 4 * 0.4, 0.3 * 1 * 0.3]),
    ("obd", [0.02, 0.045]),
    ("lamp", [0.1, 1.0]),
    ("synflow", [0.1, 0.3]),
])  # fmt: skip
def test_scores_of_a_quadratic(quadratic, criterion, scores):
    found = CRITERIA[criterion].score(quadratic)["0.weight"]
    assert found.flatten().tolist() == pytest.approx(scores, rel=1e-5)


def test_the_filter_between_the_others_goes_first():
    model = nn.Sequential(nn.Linear(2, 4))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4], [-1.0, -1.0]]))
    scores = CRITERIA["geometric-median"].score(context(model, torch.ones(1, 2)))["0.weight"].sum(1)
    assert scores.argmin() == 2  # the smallest norm is no reason: nothing changes when all filters move
    with torch.no_grad():
        model[0].weight.add_(5)
    moved = CRITERIA["geometric-median"].score(context(model, torch.ones(1, 2)))["0.weight"].sum(1)
    torch.testing.assert_close(moved, scores)


def test_units_that_no_input_activates_score_nothing():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, 0.0, 100.0]))
    batch = (torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)), None)
    scores = CRITERIA["apoz"].score(context(model, batch[0], [batch]))
    assert set(scores) == {"0.weight"}
    dead, some, always = scores["0.weight"].flatten().tolist()
    assert dead == 0
    assert 0.2 < some < 0.8
    assert always == 1
    with pytest.raises(PruningError, match="ReLU"):
        CRITERIA["apoz"].score(context(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), [(torch.ones(1, 2), None)]))


def test_synflow_counts_weighted_paths():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        model[2].weight.copy_(torch.tensor([[-5.0, 7.0]]))
    scores = CRITERIA["synflow"].score(context(model, torch.ones(1, 2)))
    assert scores["0.weight"].tolist() == [[5, 10], [0, 21]]
    assert scores["2.weight"].tolist() == [[15, 21]]


def test_gradients_leave_batch_statistics_alone():
    model = IMAGES.build(0)
    before = model[1].running_mean.clone()
    CRITERIA["snip"].score(context(model, IMAGES.example(), data(IMAGES)))
    assert torch.equal(model[1].running_mean, before)
    assert not model.training


@pytest.mark.parametrize("layer", [
    nn.Linear(6, 4), nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), nn.Conv2d(4, 6, 3, padding="same"),
    nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=2),
], ids=str)  # fmt: skip
def test_columns_are_what_rows_of_the_weight_multiply(layer):
    rank = layer.weight.dim() - 2
    x = torch.randn(2, layer.in_channels, *[9] * rank) if rank else torch.randn(2, 6)
    groups = getattr(layer, "groups", 1)
    rows = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
    product = (columns(layer, x) @ rows.transpose(1, 2)).transpose(1, 2).flatten(0, 1)  # (out, samples)
    expected = layer(x) - layer.bias.reshape(-1, *[1] * rank)
    torch.testing.assert_close(product, expected.movedim(1, 0).flatten(1), rtol=1e-4, atol=1e-5)


def test_compensation_recovers_what_other_inputs_can_express():
    model = nn.Sequential(nn.Linear(6, 3, bias=False))
    source = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    batch = (torch.cat([source, source], 1), None)  # every input is there twice
    expected = model(batch[0]).detach()
    c = context(model, batch[0], [batch])
    masks = {"0.weight": torch.tensor([[0, 1, 0, 1, 0, 1]], dtype=torch.bool).expand(3, 6)}
    compensate(c, masks)
    assert not model[0].weight[~masks["0.weight"]].any()
    assert (model(batch[0]) - expected).abs().max() < 0.05 * expected.abs().max()
