"""Networks that several tests prune; everything here needs PyTorch."""

import copy

import pytest


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="session")
def calibration(torch):
    """One batch of the training digits for LeNet-300-100."""
    from sparsec.models.dataset import training_digits
    from sparsec.models.training import Batches

    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return [next(iter(Batches.of(training_digits(), (784,), 512, 0)))]


@pytest.fixture(scope="session")
def dense_lenet(torch, calibration):
    """LeNet-300-100 trained on the digits; copy before pruning."""
    from sparsec.models.dataset import training_digits
    from sparsec.models.networks import NETWORKS
    from sparsec.models.training import Batches, trainer

    model = NETWORKS["lenet300"].build(0)
    trainer(Batches.of(training_digits(), (784,), 64, 0), epochs=20)(model, lambda *_: None)
    return model


@pytest.fixture
def lenet(dense_lenet):
    return copy.deepcopy(dense_lenet)
