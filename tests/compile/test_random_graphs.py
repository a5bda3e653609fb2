"""Random networks compute what onnxruntime computes, on every target of the processor and by whichever kernels.

`SPARSEC_FUZZ_EXAMPLES` sets how many networks are tried; `make fuzz` tries many and shrinks what fails.
"""

import os
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import sparsec
from sparsec.cost.calibration import keep
from sparsec.cost.roofline import DEFAULT_MACHINE, Machine
from sparsec.target import machine_features, resolve
from tests.support.random_graphs import networks

EXAMPLES = int(os.environ.get("SPARSEC_FUZZ_EXAMPLES", "0"))
PROFILE = settings(max_examples=EXAMPLES or 24, derandomize=not EXAMPLES, deadline=None,
                   suppress_health_check=list(HealthCheck),
                   phases=tuple(Phase) if EXAMPLES else (Phase.explicit, Phase.generate))
TARGETS = [name for name in ("cpu", "cpu-avx2", "cpu-generic") if resolve(name).features <= machine_features()]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache directory of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@st.composite
def machines(draw):
    """Rates of a machine, each up to 30 times as fast or slow as the default: other kernels become the fastest."""
    rates = {name: rate for name, rate in asdict(DEFAULT_MACHINE).items() if isinstance(rate, float)}
    return Machine(**{name: rate * draw(st.sampled_from([1, 30, 1 / 30])) for name, rate in rates.items()})


@PROFILE
@given(networks(), st.sampled_from(TARGETS), st.sampled_from([1, 2]), machines())
def test_random_networks_match_onnxruntime(model, target, threads, machine):
    note(onnx.printer.to_text(model))
    onnx.checker.check_model(model, full_check=True)
    keep(machine, threads)
    errors = sparsec.compile(model, target, threads=threads, tune="off").report["verification"]["relative_error"]
    assert np.isfinite(list(errors.values())).all()
