"""What each newer method says of itself, at small scale."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

from sparsec.errors import PruningError  # noqa: E402
from sparsec.formats.draws import seed_of  # noqa: E402
from sparsec.models.criteria import CRITERIA  # noqa: E402
from sparsec.models.criteria.chains import readers  # noqa: E402
from sparsec.models.criteria.context import Context  # noqa: E402
from sparsec.models.criteria.similar import merge  # noqa: E402
from sparsec.models.dataset import training_digits  # noqa: E402
from sparsec.models.masks import dense_masks, kept, masks_of_file, prunable  # noqa: E402
from sparsec.models.networks import NETWORKS  # noqa: E402
from sparsec.models.onnx_export import export  # noqa: E402
from sparsec.models.pruning import Options, prune  # noqa: E402
from sparsec.models.recipe import Recipe, make  # noqa: E402
from sparsec.models.schedules.eigendamage import bases, chosen, factors  # noqa: E402
from sparsec.models.schedules.task import Task  # noqa: E402
from sparsec.models.seeds import draw  # noqa: E402
from sparsec.models.training import Batches, Teacher, trainer  # noqa: E402
from tests.support.small_networks import CHAIN, IMAGES, TEXT, data, train  # noqa: E402 - after the skip


def context(model, inputs, batches=(), loss=nn.functional.cross_entropy):
    weights = prunable(model)
    return Context(model, weights, dense_masks(weights), (inputs,), batches, loss)


def run(schedule, sparsity=0.7, kind=CHAIN, watch=lambda _: None, epochs=5, **options):
    model = kind.build(0)
    start = copy.deepcopy(model.state_dict())

    def watched(module, hook):
        def record(step, total):
            hook(step, total)
            watch(module)
        train(kind, epochs)(module, record)

    result = prune(model, sparsity, kind.example(), Options(schedule=schedule, **options), data=data(kind),
                   train=watched)
    return model, start, result.masks


def test_readers_are_layers_that_alone_read_another():
    assert readers(context(CHAIN.build(0), CHAIN.example())) == {"0.weight": "5.weight", "5.weight": "7.weight"}
    found = readers(context(NETWORKS["resnet18"].build(0), NETWORKS["resnet18"].example()))
    assert len(found) == 8  # the first convolution of every block, and no other
    assert all(first.replace("body.0", "body.3") == second for first, second in found.items())


def test_force_revives_weights_as_they_were():
    model, alive = CHAIN.build(0), []
    start = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    prune(model, 0.9, CHAIN.example(), Options("force", rounds=8), data=data(CHAIN),
          progress=lambda *_: alive.append(model.get_parameter("5.weight").detach() != 0))
    assert any((later & ~earlier).any() for earlier, later in itertools.pairwise(alive))
    for name, weight in prunable(model).items():
        assert torch.equal(weight[weight != 0], start[name][weight != 0])


def test_prospr_is_the_derivative_behind_three_steps():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    inputs, targets = torch.randn(8, 2), torch.randn(8, 1)
    found = CRITERIA["prospr"].score(context(model, inputs, [(inputs, targets)], nn.functional.mse_loss))["0.weight"]

    def behind(factors):
        weight = model[0].weight.detach().double() * factors
        for x, y in zip(inputs.double().split(2)[:3], targets.double().split(2)[:3], strict=True):
            weight = weight - 0.1 * 2 * ((x @ weight.T - y) * x).mean(0) * factors
        return ((inputs.double()[6:] @ weight.T - targets.double()[6:]) ** 2).mean()

    one = torch.ones(1, 2, dtype=torch.float64)
    steps = [torch.tensor([[1e-6, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 1e-6]], dtype=torch.float64)]
    expected = [float(abs(behind(one + step) - behind(one - step)) / 2e-6) for step in steps]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-3)


def test_woodfisher_is_optimal_brain_surgeon_under_the_whole_fisher_matrix():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs, targets = torch.randn(20, 3), torch.arange(20) % 2
    c = context(model, inputs, [(inputs, targets)])
    weights = torch.cat([weight.detach().flatten() for weight in c.weights.values()]).double()
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        loss = nn.functional.cross_entropy(model(x[None]), y[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(c.weights.values()))]).double())
    stacked = torch.stack(rows)
    fisher = stacked.T @ stacked / 20 + 1e-3 * stacked.square().mean() * torch.eye(20)
    scores = torch.cat([part.flatten() for part in CRITERIA["woodfisher"].score(c).values()])
    expected = weights.square() / (2 * torch.linalg.inv(fisher).diagonal())
    torch.testing.assert_close(scores.double(), expected, rtol=2e-2, atol=1e-9)
    removed = torch.zeros(20, dtype=torch.bool)
    removed[[0, 5, 13]] = True
    kept_ = ~removed
    moved = weights.clone()
    moved[kept_] += torch.linalg.solve(fisher[kept_][:, kept_], fisher[kept_][:, removed] @ weights[removed])
    flat = kept_.split([12, 8])
    masks = {name: part.reshape(weight.shape) for (name, weight), part in zip(c.weights.items(), flat, strict=True)}
    CRITERIA["woodfisher"].compensate(c, masks)
    found = torch.cat([weight.detach().flatten() for weight in c.weights.values()]).double()
    assert not found[removed].any()
    torch.testing.assert_close(found[kept_], moved[kept_], rtol=2e-2, atol=1e-3)


def test_phew_leaves_whole_paths_at_any_density():
    for sparsity in (0.7, 0.9):
        result = prune(CHAIN.build(0), sparsity, CHAIN.example(), Options("phew"))
        assert kept(result.active) >= 0.95 * kept(result.masks)


def test_phew_prefers_large_weights():
    weight = prunable(CHAIN.build(0))["5.weight"].detach().abs()
    masks = prune(CHAIN.build(0), 0.8, CHAIN.example(), Options("phew")).masks["5.weight"]
    assert weight[masks].mean() > 1.2 * weight[~masks].mean()


def test_thinet_drops_the_filter_that_the_next_layer_does_not_hear():
    model = CHAIN.build(0)
    with torch.no_grad():
        model[5].weight.view(16, 8, 4)[:, 3] *= 1e-3
    scores = CRITERIA["thinet"].score(context(model, CHAIN.example(), data(CHAIN)))
    assert set(scores) == {"0.weight", "5.weight"}
    assert scores["0.weight"].flatten(1).sum(1).argmin() == 3


def test_merging_equal_units_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[5] = model[0].weight[2]
        model[0].bias[5] = model[0].bias[2]
    x = torch.randn(8, 4)
    before = model(x)
    c = context(model, x)
    gone = CRITERIA["similar-units"].score(c)["0.weight"].sum(1).argmin()
    assert gone in (2, 5)
    masks = dense_masks(prunable(model))
    masks["0.weight"][gone] = False
    merge(c, masks)
    assert not model[2].weight[:, gone].any()
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("criterion", ["thinet", "similar-units"])
def test_criteria_of_readers_say_where_there_are_none(criterion):
    with pytest.raises(PruningError, match="one layer alone reads"):
        CRITERIA[criterion].score(context(nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4)))


def test_a_quota_as_another_criterion_has_it():
    model = IMAGES.build(0)
    wanted = prune(copy.deepcopy(model), 0.8, IMAGES.example(), Options("snip"), data=data(IMAGES)).masks
    found = prune(model, 0.8, IMAGES.example(), Options("random", quota="as:snip"), data=data(IMAGES)).masks
    assert [int(mask.sum()) for mask in found.values()] == [int(mask.sum()) for mask in wanted.values()]
    assert any(not torch.equal(found[name], wanted[name]) for name in found)


@pytest.mark.parametrize("schedule", ["dsr", "snfs"])
def test_reallocation_moves_weights_between_layers(schedule):
    masks = run(schedule, 0.8)[2]
    first = prune(CHAIN.build(0), 0.8, CHAIN.example(), Options("random", quota="uniform")).masks
    assert [int(mask.sum()) for mask in masks.values()] != [int(mask.sum()) for mask in first.values()]
    assert kept(masks) == kept(first)


def test_deep_rewiring_never_changes_a_sign():
    model, start, masks = run("deepr")
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        both = mask & (weight != 0)
        first = prune(CHAIN.build(0), 0.7, CHAIN.example(), Options("random", quota="uniform")).masks[name]
        assert torch.equal(weight.sign()[both & first], start[name].sign()[both & first])


def test_itop_tries_more_connections_than_set():
    tried = {}
    for schedule in ("set", "itop"):
        seen = {}

        def watch(model, seen=seen):
            for name, weight in prunable(model).items():
                seen[name] = seen.get(name, False) | (weight.detach() != 0)

        run(schedule, 0.9, watch=watch, epochs=30)
        tried[schedule] = sum(int(each.sum()) for each in seen.values())
    assert tried["itop"] > 1.5 * tried["set"]


def test_top_kast_lets_weights_stand_still_that_do_not_learn():
    model, start, masks = run("top-kast", 0.8)
    for name, mask in masks.items():
        assert int(mask.sum()) == round(0.2 * mask.numel())
        assert not torch.equal(model.get_parameter(name)[mask], start[name][mask])


@pytest.mark.parametrize(("schedule", "of"), [("edge-popup", torch.Tensor.clone), ("signs", torch.Tensor.abs)])
def test_random_weights_stay_what_they_were(schedule, of):
    model, start, masks = run(schedule)
    for name, mask in masks.items():
        assert torch.equal(of(model.get_parameter(name).detach()[mask]), of(start[name][mask]))
    changed = any(not torch.equal(model.state_dict()[name], start[name]) for name in start if name.endswith("bias"))
    assert changed == (schedule == "signs")


def test_frozen_weights_stay_at_their_random_start():
    model, start, masks = run("freeze", 0.5)
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert torch.equal(weight[~mask], start[name][~mask])
        assert not torch.equal(weight[mask], start[name][mask])


@pytest.mark.parametrize(("schedule", "share"), [("lasso", 0.3), ("group-lasso", 0.2), ("ridge", 0.0)])
def test_penalties_make_zeros_before_the_threshold_does(schedule, share):
    zeros = []
    run(schedule, 0.7, epochs=20, watch=lambda model: zeros.append(
        sum(int((w == 0).sum()) for w in prunable(model).values()) / sum(w.numel() for w in prunable(model).values())))
    penalised = zeros[: int(0.7 * len(zeros)) - 1]
    assert penalised[-1] == 0 if share == 0 else penalised[-1] > share


def test_eigendamage_loses_less_than_rows_and_columns_of_the_weights_themselves():
    model = NETWORKS["lenet300"].build(0)
    trainer(Batches.of(training_digits(), (784,), 64, 0), epochs=3)(model, lambda *_: None)
    inputs, labels = next(iter(Batches.of(training_digits(), (784,), 512, 0)))
    masks = dense_masks(prunable(model))
    task = Task(model, masks, 0.9, None, None, 1, None, torch.Generator().manual_seed(0), lambda *_: None,
                data=[(inputs, labels)])
    moments, lost = factors(task), []
    for eigen in (True, False):
        other, rotated = copy.deepcopy(model), bases(task, moments, eigen=eigen)
        kept_ = chosen(rotated, 0.9, sum(mask.numel() for mask in masks.values()))
        assert sum(int((~mask).sum()) for mask in kept_.values()) >= 0.9 * sum(mask.numel() for mask in masks.values())
        with torch.no_grad():
            for name, each in rotated.items():
                weight = other.get_parameter(name)
                weight.copy_((each.left @ (each.inner * kept_[name]) @ each.right.T).reshape(weight.shape))
            lost.append(float(nn.functional.cross_entropy(other.eval()(inputs), labels)))
    assert lost[0] < 0.5 * lost[1]


def test_eigendamage_leaves_fewer_rows_and_columns_in_another_basis():
    model, start, masks = run("eigendamage", 0.5)
    for name, mask in masks.items():
        flat = mask.flatten(1)
        assert torch.equal(flat, flat.any(1)[:, None] & flat.any(0))
        rank = torch.linalg.matrix_rank(model.get_parameter(name).detach().flatten(1), rtol=1e-4)
        assert rank <= min(flat.any(1).sum(), flat.any(0).sum())
    assert kept(masks) <= 0.5 * sum(mask.numel() for mask in masks.values())
    assert any(not torch.equal(model.get_parameter(name), start[name]) for name in masks)
    with pytest.raises(PruningError, match="needs data"):
        prune(CHAIN.build(0), 0.5, CHAIN.example(), Options(schedule="eigendamage"))


def test_a_seed_draws_the_weights_that_stay_random():
    model, again = NETWORKS["lenet5"].build(0), NETWORKS["lenet5"].build(1)
    draw(model, 5)
    draw(again, 5)
    for name, weight in prunable(model).items():
        assert torch.equal(weight, again.get_parameter(name))
        assert weight.detach().abs().unique().numel() == 1
        assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    made = make(Recipe("lenet300", 0.9, Options(schedule="freeze"), epochs=1, seed=5))
    for number, (name, mask) in enumerate(made.pruned.masks.items()):
        weight = made.model.get_parameter(name).detach()[~mask].abs()
        assert weight.unique().numel() == 1
        assert seed_of((made.model.get_parameter(name).detach() > 0).flatten().numpy(), (~mask).flatten().numpy()) == \
            5 * 256 + number or mask.numel() < 128


def test_rewinding_to_the_start():
    starts = []

    def watched(module, hook):
        starts.append(copy.deepcopy(module.state_dict()))
        train(CHAIN)(module, hook)

    prune(CHAIN.build(0), 0.5, CHAIN.example(), Options(schedule="imp", rounds=1, rewind=0.0), train=watched)
    again, first = starts[1]["5.weight"], starts[0]["5.weight"]
    assert torch.equal(again[again != 0], first[again != 0])


def test_a_teacher_is_copied():
    inputs, labels = data(CHAIN)[0]
    dense, student = CHAIN.build(0), CHAIN.build(1)

    def distance():
        with torch.no_grad():
            return float(Teacher(dense).loss(inputs, student.eval()(inputs)))

    before = distance()
    batches = Batches(inputs, labels, 8, torch.Generator().manual_seed(0))
    trainer(batches, epochs=20, lr=0.05, teacher=Teacher(dense, share=1.0))(student, lambda *_: None)
    assert distance() < 0.3 * before


@pytest.mark.parametrize("kind", [IMAGES, TEXT], ids=["images", "text"])
def test_masks_of_an_exported_file(kind, tmp_path):
    model = kind.build(0)
    masks = prune(model, 0.5, kind.example(), Options("random")).masks
    export(model, tmp_path / "model.onnx", (kind.example(),))
    found = masks_of_file(kind.build(1), tmp_path / "model.onnx")
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    with pytest.raises(PruningError, match="exported from another model"):
        masks_of_file(NETWORKS["lenet300"].build(0), tmp_path / "model.onnx")
