"""Where the standard error is no terminal, long work prints a line now and then, and short work nothing."""

import time

import pytest

from sparsec.cli import progress
from sparsec.compiler.compile import _announcer
from sparsec.compiler.sized.build import _for_rows


@pytest.mark.parametrize(("every", "line"), [(0.02, "sparsec: tune, 40 %, 0 s so far"), (10.0, None)])
def test_lines_in_a_pipe(monkeypatch, capsys, every, line):
    monkeypatch.setattr(progress, "EVERY_S", every)
    with progress.progress_bar() as bar:
        bar.update(bar.add_task("read", total=1.0), description="tune", completed=0.4)
        time.sleep(0.2)
    told = capsys.readouterr()
    assert {*told.err.splitlines()} == ({line} if line else set())
    assert not told.out


def test_work_that_cannot_tell_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    with progress.working("quantising"):
        time.sleep(0.1)
    assert capsys.readouterr().err.startswith("sparsec: quantising, 0 s so far\n")


def test_every_number_of_rows_goes_on_where_the_last_has_ended():
    told = []
    announce = _announcer(lambda step, share: told.append((step, share)))
    announce("rewrite", 1.0)
    for place, count in enumerate((1, 4)):
        tell = _for_rows(announce, count, place, 2)
        for step, part in (("plan", 0.0), ("plan", 1.0), ("build", 0.0)):
            tell(step, part)
    announce("verify")
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert [step for step, _ in told[1:]] == [*(f"{step} for 1 row (1 of 2)" for step in ("plan", "plan", "build")), *(
        f"{step} for 4 rows (2 of 2)" for step in ("plan", "plan", "build")), "verify"]
