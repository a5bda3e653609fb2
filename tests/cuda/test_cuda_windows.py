"""Convolutions that read their windows from the image equal numpy exactly on the emulator."""

from dataclasses import replace

import pytest

from sparsec.kernels.cuda.params import reject
from tests.support.cuda.products import CONVOLUTIONS, FAMILIES, needs_compiler, run


@needs_compiler
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_convolutions_are_exact(family, name):
    wrong, (product, *_) = run(CONVOLUTIONS[name], FAMILIES[family], seeds=range(2))
    assert wrong == 0
    assert product.bank_conflicts == 0


def test_images_have_their_channels_last():
    assert "channels last" in reject(replace(CONVOLUTIONS["3x3"], layout="kn"))
