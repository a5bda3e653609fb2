"""What a kernel of several threads is taken to need, where other programs take processors from it."""

import pytest

from sparsec.backends.cpu.planning import SHARING, undisturbed
from sparsec.cost.roofline import FORK_S


@pytest.mark.parametrize(("together", "share", "least", "expected"), [
    (1.05, 1.0, 0.2, 1.05),
    (4.00, 1.0, 0.2, FORK_S + SHARING),  # another program had one of the processors
    (1.50, 1.0, 1.5, 1.50),  # both threads wait for the memory
    (9.00, 1.0, 1.5, FORK_S + SHARING * 1.5),
])
def test_times_of_several_threads_are_bounded_by_those_of_one(together, share, least, expected):
    assert undisturbed(together, share, least) == pytest.approx(expected)
