"""Every criterion with every pattern, quota and schedule."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

from sparsec.errors import CollapseError, PruningError, UsageError  # noqa: E402
from sparsec.formats.nm import columns, group_counts  # noqa: E402
from sparsec.models.criteria import CRITERIA  # noqa: E402
from sparsec.models.masks import kept, prunable, size  # noqa: E402
from sparsec.models.onnx_export import export  # noqa: E402
from sparsec.models.pruning import Options, prune  # noqa: E402
from sparsec.models.quotas import QUOTAS  # noqa: E402
from sparsec.models.schedules import SCHEDULES  # noqa: E402
from sparsec.report.explain import explain  # noqa: E402
from tests.support.small_networks import CHAIN, IMAGES, TEXT, data, train  # noqa: E402 - after the skip


def pruned(kind, sparsity, *, seed=0, training=False, **options):
    model = kind.build(0)
    result = prune(model, sparsity, kind.example(), Options(**options), data=data(kind), seed=seed,
                   train=train(kind) if training else None)
    for name, mask in result.masks.items():
        assert options.get("schedule") == "freeze" or not model.get_parameter(name)[~mask].any()
        assert not result.active[name][~mask].any()
    return model, result


OF_WEIGHTS = sorted(name for name, each in CRITERIA.items() if each.pattern == "unstructured" and name != "phew")
OF_FILTERS = sorted({name for name, each in CRITERIA.items() if each.pattern == "filters"} - {"batchnorm", "apoz"})
GATED = ("movement", "l0", "variational-dropout", "top-kast", "edge-popup")
MOVING = ("set", "rigl", "itop", "deepr", "dsr", "snfs")


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "3x5"])
@pytest.mark.parametrize("criterion", OF_WEIGHTS)
def test_criteria_reach_the_target(criterion, pattern):
    _, result = pruned(IMAGES, 0.5, criterion=criterion, pattern=pattern, rounds=5)
    assert result.sparsity == pytest.approx(0.5, abs=0.002 if pattern == "unstructured" else 0.03)


@pytest.mark.parametrize("quota", [*QUOTAS, "global"])
def test_quotas_reach_the_target(quota):
    _, result = pruned(IMAGES, 0.6, quota=quota)
    assert result.sparsity == pytest.approx(0.6, abs=0.005)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_schedules_reach_the_target(schedule, criterion):
    _, result = pruned(IMAGES, 0.6, schedule=schedule, criterion=criterion, training=True)
    assert result.sparsity == pytest.approx(0.6, abs=0.05 if schedule == "group-lasso" else 0.005)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "snip", *OF_FILTERS])
def test_filters_go_as_wholes_but_not_those_of_the_last_layer(criterion):
    _, result = pruned(CHAIN if criterion in ("thinet", "similar-units") else IMAGES, 0.5, criterion=criterion,
                       pattern="filters")
    assert [list(mask.flatten(1).any(1)) for mask in result.masks.values()] == \
        [list(mask.flatten(1).all(1)) for mask in result.masks.values()]
    assert "9.weight" not in result.masks
    assert result.sparsity == pytest.approx(0.5, abs=0.01)


def test_batchnorm_scale_ranks_the_filters_of_its_layer():
    model = IMAGES.build(0)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -8.0, 3.0, 4.0, 5.0, 0.5, -0.1, 2.0]))
    result = prune(model, 0.5, IMAGES.example(), Options("batchnorm"))
    assert list(result.masks) == ["0.weight"]
    assert result.masks["0.weight"].flatten(1).all(1).nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_heads_go_as_wholes():
    _, result = pruned(TEXT, 0.5, pattern="heads")
    for name in ("layers.0.attention", "layers.1.attention"):
        query, key, value = (result.masks[f"{name}.{part}.weight"].reshape(4, -1) for part in ("query", "key", "value"))
        output = result.masks[f"{name}.output.weight"].T.reshape(4, -1)
        heads = query.all(1)
        assert heads.sum() == 2
        assert all(torch.equal(part, heads[:, None].expand(part.shape)) for part in (query, key, value, output))


@pytest.mark.parametrize("criterion", ["magnitude", "obs", "random"])
def test_n_of_m_keeps_the_best_of_every_group(criterion):
    _, result = pruned(IMAGES, None, criterion=criterion, pattern="2:4")
    divisible = [columns(mask.numpy()) for mask in result.masks.values() if mask.shape[1] % 4 == 0]
    assert len(divisible) == 3
    assert all((group_counts(mask, 4) == 2).all() for mask in divisible)
    assert result.masks["0.weight"].all()  # 3 channels


def test_two_of_four_runs_as_such_on_the_gpu(tmp_path):
    model = nn.Sequential(nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 64))  # fmt: skip
    example = torch.zeros(32, 128, 14, 14)
    prune(model, None, example, Options(pattern="2:4"))
    export(model, tmp_path / "m.onnx", (example,))
    found = explain(tmp_path / "m.onnx", "cuda-sm80").layers
    assert [layer.operator for layer in found] == ["Conv", "Conv", "MatMul"]
    assert [layer.candidates[0].format for layer in found[:2]] == ["nm 2:4"] * 2
    assert "nm 2:4" in {each.format for each in found[2].candidates}


def test_masks_of_one_ranking_are_nested():
    small, large = (pruned(IMAGES, s, criterion="lamp")[1].masks for s in (0.8, 0.5))
    assert all((large[name] | ~small[name]).all() for name in small)


def test_seeds_repeat():
    first, again, other = (pruned(IMAGES, 0.5, criterion="random", seed=seed)[1].masks for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_kept_layers_stay_dense():
    _, result = pruned(IMAGES, 0.5, keep=("0.*", "9.weight"))
    assert list(result.masks) == ["3.weight", "7.weight"]


def test_gradual_follows_the_cubic_schedule():
    model, counts = IMAGES.build(0), []

    def watched(module, hook):
        def record(step, total):
            hook(step, total)
            counts.append(sum(int((w == 0).sum()) for w in prunable(module).values()))

        train(IMAGES, epochs=10)(module, record)

    result = prune(model, 0.8, IMAGES.example(), Options(schedule="gradual", rounds=7), train=watched)
    levels = sorted(set(counts) - {0})
    expected = [0.8 * (1 - (1 - update / 7) ** 3) * size(result.masks) for update in range(1, 8)]
    assert levels == pytest.approx(expected, abs=1)


def test_imp_goes_back_to_the_early_weights():
    model, starts = IMAGES.build(0), []

    def watched(module, hook):
        starts.append(copy.deepcopy(module.state_dict()))
        train(IMAGES, epochs=3)(module, hook)

    prune(model, 0.5, IMAGES.example(), Options(schedule="imp", rounds=2), train=watched)
    assert len(starts) == 3
    kept_weights = [start["7.weight"][starts[2]["7.weight"] != 0] for start in starts[1:]]
    assert torch.equal(*kept_weights)


@pytest.mark.parametrize("schedule", MOVING)
def test_dynamic_training_starts_anywhere_moves_weights_and_keeps_their_number(schedule):
    start = pruned(IMAGES, 0.8, criterion="random", quota=SCHEDULES[schedule].quota)[1].masks
    end = pruned(IMAGES, 0.8, schedule=schedule, training=True)[1].masks
    assert kept(end) == kept(start)
    assert any(not torch.equal(start[name], end[name]) for name in start)
    if schedule in ("set", "rigl", "itop"):
        assert [int(mask.sum()) for mask in end.values()] == [int(mask.sum()) for mask in start.values()]


def regress(model, hook):
    """Learn y = x_2 from weights of which the first is larger."""
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(100):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(x)[:, 0], x[:, 1]).backward()
        optimiser.step()
        hook(step + 1, 100)


@pytest.mark.parametrize(("schedule", "stays"), [
    ("movement", 1), ("l0", 1), ("variational-dropout", 1), ("lasso", 1), ("top-kast", 1), ("one-shot", 0),
])  # fmt: skip
def test_gates_keep_what_grows_and_magnitude_what_is_large(schedule, stays):
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 0.1]]))
    result = prune(model, 0.5, torch.ones(1, 2), Options(schedule=schedule), train=regress)
    assert result.masks["0.weight"].flatten().tolist() == [stays == 0, stays == 1]
    assert (model[0].weight != 0).flatten().tolist() == [stays == 0, stays == 1]
    assert list(model.state_dict()) == ["0.weight"]


@pytest.mark.parametrize("schedule", GATED)
def test_gates_meet_the_sparsity_of_a_network(schedule):
    model, result = pruned(IMAGES, 0.8, schedule=schedule, training=True)
    assert kept(result.masks) == pytest.approx(0.2 * size(result.masks), abs=len(result.masks))
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in result.masks.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("sparsity", "options", "error", "message"), [
    (0.5, {"schedule": "l0", "pattern": "2:4"}, UsageError, "prunes single weights"),
    (0.5, {"schedule": "movement", "pattern": "4x1"}, UsageError, "prunes single weights"),
    (0.5, {"schedule": "deepr", "criterion": "filter-norm"}, UsageError, "prunes single weights"),
    (0.5, {"quota": "as:best"}, UsageError, "magnitude, lamp"),
    (0.5, {"quota": "as:filter-norm"}, UsageError, "single weights"),
    (0.5, {"schedule": "imp", "rewind": 1.0}, UsageError, "below 1"),
    (0.5, {"criterion": "phew"}, PruningError, "read one by the next"),
    (0.5, {"criterion": "snip"}, PruningError, "needs data"),
    (0.5, {"schedule": "gradual"}, PruningError, "pass `train`"),
    (0.5, {"criterion": "best"}, UsageError, "magnitude, lamp"),
    (0.5, {"pattern": "4:2"}, UsageError, "2:4"),
    (0.5, {"pattern": "heads"}, PruningError, "attention"),
    (0.5, {"schedule": "slow"}, UsageError, "one-shot"),
    (0.5, {"quota": "best"}, UsageError, "igq"),
    (1.5, {}, UsageError, "below 1"),
    (None, {}, UsageError, "below 1"),
    (0.7, {"pattern": "2:4"}, UsageError, "fixes the sparsity at 0.5"),
    (0.5, {"schedule": "set", "effective": True}, UsageError, "effective"),
    (0.9999, {"quota": "uniform+"}, PruningError, "allows 0 <= sparsity"),
    (0.9999, {"quota": "global"}, CollapseError, r"layer '0\.weight' keeps 0 of its 216"),
])  # fmt: skip
def test_refusals_say_the_way_out(sparsity, options, error, message):
    with pytest.raises(error, match=message):
        prune(IMAGES.build(0), sparsity, IMAGES.example(), Options(**options))


def test_effective_target_out_of_reach_names_the_nearest():
    with pytest.raises(PruningError, match="nearest are") as refusal:
        pruned(IMAGES, 0.997, criterion="random", effective=True)
    nearest = float(str(refusal.value).split("nearest are ")[1].split(" ")[0].rstrip(";,"))
    _, result = pruned(IMAGES, nearest, criterion="random", effective=True)
    assert result.effective_sparsity == pytest.approx(nearest, abs=1e-5)
    assert kept(result.active) > 0
