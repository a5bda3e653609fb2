"""What the papers claim, on LeNet-300-100 and scikit-learn's digits."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from sparsec.errors import CollapseError  # noqa: E402 - after the skips
from sparsec.models.dataset import digits, training_digits  # noqa: E402
from sparsec.models.networks import NETWORKS  # noqa: E402
from sparsec.models.pruning import Options, prune  # noqa: E402
from sparsec.models.training import Batches, accuracy, trainer  # noqa: E402

INPUTS = torch.zeros(1, 784)
CALIBRATION = [next(iter(Batches.of(training_digits(), (784,), 512, 0)))]


def trained(name, seed=0):
    model = NETWORKS[name].build(seed)
    trainer(Batches.of(training_digits(), (784,), 64, seed), epochs=10)(model, lambda *_: None)
    return model


@pytest.fixture(scope="module")
def lenet300():
    return trained("lenet300")


def compressions(model, compression, **options):
    model = copy.deepcopy(model)
    result = prune(model, 1 - 1 / compression, INPUTS, Options(**options), data=CALIBRATION)
    return 1 / (1 - result.sparsity), 1 / (1 - result.effective_sparsity)


@pytest.mark.parametrize("compression", [10, 100, 1000])
@pytest.mark.parametrize("criterion", ["synflow", "snip-iterative"])
def test_iterated_criteria_leave_nothing_inactive(criterion, compression):
    direct, effective = compressions(NETWORKS["lenet300"].build(0), compression, criterion=criterion)
    assert effective == pytest.approx(direct, rel=0.02)
    assert direct == pytest.approx(compression, rel=0.01)


def test_lamp_reaches_a_tenfold_gap():
    model, gaps = trained("lenet300-bn"), []
    for compression in (1000, 1500, 2000):
        try:
            direct, effective = compressions(model, compression, criterion="lamp")
        except CollapseError:
            break
        gaps.append(effective / direct)
    assert max(gaps) >= 10


@pytest.mark.parametrize("effective", [0.9, 0.98, 0.99])
@pytest.mark.parametrize("options", [
    {"criterion": "magnitude"}, {"criterion": "lamp"}, {"criterion": "snip"}, {"criterion": "synflow"},
    {"criterion": "random"}, {"criterion": "random", "quota": "erk"}, {"criterion": "random", "quota": "igq"},
], ids=lambda options: "-".join(options.values()))  # fmt: skip
def test_effective_pruning_meets_its_target(lenet300, options, effective):
    _, found = compressions(lenet300, 1 / (1 - effective), effective=True, **options)
    assert found == pytest.approx(1 / (1 - effective), rel=0.01)


def test_optimal_brain_surgeon_needs_no_retraining(lenet300):
    inputs, labels = (torch.from_numpy(array) for array in digits())
    dense = accuracy(lenet300, inputs, labels)
    lost = {}
    for criterion in ("obs", "magnitude"):
        model = copy.deepcopy(lenet300)
        prune(model, 0.9, INPUTS, Options(criterion, quota="uniform"), data=CALIBRATION)
        lost[criterion] = dense - accuracy(model, inputs, labels)
    assert lost["obs"] < 0.05
    assert lost["magnitude"] > 3 * lost["obs"]


def test_gradual_pruning_to_95_percent_keeps_the_accuracy():
    model = trained("lenet300")
    inputs, labels = (torch.from_numpy(array) for array in digits())
    dense = accuracy(model, inputs, labels)
    train = trainer(Batches.of(training_digits(), (784,), 64, 0), epochs=20, lr=0.05)
    result = prune(model, 0.95, INPUTS, Options(schedule="gradual"), train=train)
    assert result.sparsity == pytest.approx(0.95, abs=1e-4)
    assert accuracy(model, inputs, labels) > dense - 0.02
