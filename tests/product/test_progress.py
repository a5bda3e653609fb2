"""Where the standard error is no terminal, long work prints a line now and then, and short work nothing."""

import time

import pytest

from sparsec.cli import progress


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
