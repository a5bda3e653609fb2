"""Independent parts of a command: in order, kept as they are done, and refused where there is no such place."""

import onnx
import pytest
from typer.testing import CliRunner

from sparsec.cli import app, parts
from sparsec.cli.bench_cluster import timed
from sparsec.errors import UsageError
from tests.support.parts import CALLS, squared
from tests.support.small_session import NETWORK


def results(folder, numbers):
    return [result["square"] for _, result in sorted(parts.run(squared, [parts.Part((n,)) for n in numbers],
                                                               folder=folder))]


def test_what_is_finished_is_not_run_again(tmp_path):
    CALLS.clear()
    assert results(tmp_path / "kept", [1, 2]) == [1, 4]
    assert results(tmp_path / "kept", [1, 3, 2]) == [1, 9, 4]
    assert CALLS == [1, 2, 3]
    assert results(None, [2]) == [4]
    assert CALLS == [1, 2, 3, 2]


def test_a_damaged_result_is_named(tmp_path):
    results(tmp_path, [1])
    path, = tmp_path.iterdir()
    path.write_text("{")
    with pytest.raises(UsageError, match=f"{path.name}: damaged"):
        results(tmp_path, [1])


@pytest.mark.parametrize("on", ["there", "http://somewhere", ""])
def test_a_place_that_is_none_is_refused(on):
    with pytest.raises(UsageError, match="give local, or the address of a Ray cluster"):
        parts.check(on)


def test_a_machine_says_why_it_cannot_time_a_model(tmp_path):
    """What machines measure is in test_ray.py."""
    onnx.save(NETWORK, tmp_path / "m.onnx")
    error = timed([str(tmp_path / "m.onnx"), "--shape", "z:1"])["error"]
    assert error.endswith("no input 'z' to bind; the inputs are x")


def test_finished_machines_are_kept_on_a_cluster_only(tmp_path):
    with pytest.raises(UsageError, match="--resume is for --on ray"):
        CliRunner().invoke(app, ["bench", "--sweep", "8x8x8", "--resume", str(tmp_path)], catch_exceptions=False)


def test_rates_of_more_threads_than_cores_are_not_measured():
    with pytest.raises(UsageError, match="--threads 4096: this process may use"):
        CliRunner().invoke(app, ["calibrate", "--threads", "4096"], catch_exceptions=False)


def test_a_study_in_parts_is_the_study(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sparsec.cli.study import _run
    from sparsec.models.study import Plan

    plan = Plan(("random",), (10.0,), (0,), epochs=1)
    whole = _run(plan, parts.LOCAL, None)
    assert _run(plan, parts.LOCAL, tmp_path) == whole
    assert len(list(tmp_path.iterdir())) == 1
