"""The papers' comparisons: the quick ones come out near the papers', or as far off as the page says."""

import pytest
from typer.testing import CliRunner

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.headlines import HEADLINES
from sparsec.cli import app

QUICK = {"over its dense twin, AlexNet": (0.05, 0.25), "over its dense twin, GoogLeNet": (0.1, 0.3),
         "over its dense twin, GoogLeNet without zeros": (-0.15, 0.05), "pruned over dense, balanced": (0.2, 0.45)}
"""By comparison the difference from the paper that `docs/accelerators.md` tells of, from and to."""


@pytest.mark.parametrize(("what", "bounds"), QUICK.items())
def test_a_comparison_comes_out_as_the_page_says(what, bounds):
    (headline,) = [each for each in HEADLINES if each.what == what]
    assert bounds[0] < headline.here(11) / headline.paper - 1 < bounds[1]


def test_comparisons_are_of_accelerators_that_there_are():
    assert {each.accelerator for each in HEADLINES} <= set(ACCELERATORS)


def test_the_command_prints_them():
    result = CliRunner().invoke(app, ["accelerators", "--headlines", "--explain", "ese", "--seeds", "2"])
    assert result.exit_code == 0, result.output
    assert "pruned over dense, balanced" in result.output
    without = CliRunner().invoke(app, ["accelerators", "--headlines", "--explain", "minerva"])
    assert "there are no comparisons of 'minerva' here; choose from scnn" in str(without.exception)
