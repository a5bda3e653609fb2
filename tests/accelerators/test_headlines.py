"""The papers' comparisons: the quick ones come out near the papers', or as far off as the page says."""

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsec.backends.accelerators.benchmarks import cycles, gemm
from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.headlines import HEADLINES
from sparsec.cli import app

QUICK = {"over its dense twin, AlexNet": (-0.1, 0.0), "the same, GoogLeNet without zeros": (-0.1, 0.0),
         "pruned over dense LSTM, balanced": (0.0, 0.1), "us of a step of the pruned LSTM": (-0.05, 0.05),
         "frames a second, AlexNet's convolutions": (0.1, 0.2),
         "with prediction of outputs over without": (-0.2, -0.05),
         "over Eyeriss, AlexNet": (-0.1, 0.0), "over EIE, each with 1,024 lanes": (0.0, 0.1),
         "inferences a second, dense MobileNet": (0.0, 0.15)}
"""By comparison the difference from the paper that `docs/accelerators.md` tells of, from and to."""


@pytest.mark.parametrize(("what", "bounds"), QUICK.items())
def test_a_comparison_comes_out_as_the_page_says(what, bounds):
    (headline,) = [each for each in HEADLINES if each.what == what]
    assert bounds[0] < headline.here(11) / headline.paper - 1 < bounds[1]


def test_products_are_as_much_faster_on_sigma_as_in_its_figure():
    bars = {(128, 2048, 4096): 4.5, (2048, 4096, 32): 16, (35, 8457, 2560): 11, (256, 256, 2048): 6}
    for shape, bar in bars.items():
        layer = [gemm(*shape, 0.2, 0.7, np.random.default_rng(1))]
        assert cycles("systolic", layer) / cycles("sigma", layer) == pytest.approx(bar, rel=0.1)


def test_every_design_has_one_comparison_that_it_is_judged_by():
    leads = [each.accelerator for each in HEADLINES if each.leads]
    surveyed = [name for name, each in ACCELERATORS.items() if each.surveyed]
    assert sorted(leads) == sorted(set(surveyed) - {"spec2", "spectral-cnn"})


def test_comparisons_are_of_accelerators_that_there_are():
    assert {each.accelerator for each in HEADLINES} <= set(ACCELERATORS)


def test_the_command_prints_them():
    result = CliRunner().invoke(app, ["accelerators", "--headlines", "--explain", "ese", "--seeds", "2"])
    assert result.exit_code == 0, result.output
    assert "pruned over dense LSTM, balanced" in result.output
    without = CliRunner().invoke(app, ["accelerators", "--headlines", "--explain", "spec2"])
    assert "there are no comparisons of 'spec2' here; choose from cnvlutin" in str(without.exception)
