"""Files that others chose the place of: what is read and written, and what of the cache is believed."""

import contextlib
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsec import Artifact, files
from sparsec.backends.cuda import toolchain
from sparsec.cli import options
from sparsec.compiler import portable
from sparsec.compiler.options import CompileOptions
from sparsec.cost import calibration
from sparsec.cost.calibration import SHIPPED, calibration_of
from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import DEFAULT_MACHINE
from sparsec.cost.tuning import TuningLog
from sparsec.errors import ArtifactError, CalibrationError, SignatureError, SparsecError, printable
from sparsec.graph import reader
from sparsec.kernels.packing import RECIPES, Recipe
from sparsec.target import resolve
from tests.hostile.artifacts import small_artifact
from tests.support.texts import model


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("read", [reader.load, Artifact.load, options.read_arrays])
def test_pipes_folders_and_devices_are_not_read(read, pipe):
    for path in (pipe, pipe.parent, "/dev/zero"):
        with pytest.raises(SparsecError):
            read(path)


def test_an_array_that_is_a_pipe_or_promises_more_than_there_is_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    (tmp_path / "large.npy").write_bytes(header.getvalue())
    for name in ("pipe.npy", "large.npy"):
        with pytest.raises(SparsecError, match=name):
            options.inputs_for(small_artifact(), tmp_path / name)


def test_a_signature_that_is_a_pipe_is_refused(tmp_path):
    small_artifact().save(tmp_path / "model")
    os.mkfifo(tmp_path / "model.sig")
    key = tmp_path / "key.pem"
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    key.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM,
                                                                           PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SignatureError, match="not a regular file"):
        Artifact.load(tmp_path / "model", require_signature=key)


def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    files.write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_owner_is_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    files.write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (1234, 4321, b"new")


@pytest.mark.parametrize("name", ["x.sparsec", "x.json", "x.npz"])
def test_every_output_of_a_command_follows_links_and_reaches_devices(name, tmp_path):
    writers = {"x.sparsec": small_artifact().save, "x.json": lambda path: options.write_json(path, {"a": 1}),
               "x.npz": lambda path: options.write_arrays(path, {"a": np.ones(3)})}
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / name).symlink_to("real")
    writers[name](tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real").read_bytes() != b"old"
    writers[name](Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_devices_and_pipes_are_written_to(pipe):
    files.write("/dev/null", b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)  # noqa: PTH116 - what the system says of a device
    reading = subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"], stdout=subprocess.PIPE)
    files.write(pipe, b"data")
    assert reading.communicate(timeout=60)[0] == b"data\n"


def test_the_longest_name_can_be_written(tmp_path):
    files.write(tmp_path / ("x" * 255), b"data")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"data"


@pytest.mark.parametrize("loose", ["file", "folder"])
def test_a_cache_that_others_may_write_is_ignored(loose, tmp_path):
    path = tmp_path / "cache" / "tuning.jsonl"
    path.parent.mkdir()
    path.write_text('{"key": "a", "seconds": 1.0}\n')
    assert TuningLog(path, 0.0)._seconds == {"a": [1.0]}
    (path if loose == "file" else path.parent).chmod(0o777)
    with pytest.warns(UserWarning, match="is ignored"):
        assert TuningLog(path, 0.0)._seconds == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_cache_of_another_owner_is_ignored(given, tmp_path):
    path = tmp_path / "cache" / "tuning.jsonl"
    path.parent.mkdir()
    path.write_text('{"key": "a", "seconds": 1.0}\n')
    os.chown(path if given == "file" else path.parent, 1234, -1)
    with pytest.warns(UserWarning, match="is ignored: others own it"):
        assert TuningLog(path, 0.0)._seconds == {}
    with pytest.warns(UserWarning, match="is ignored: others own it"):
        assert calibration_of(resolve("cpu"), 1, path).source == SHIPPED


KEEPERS = {
    "tuning.jsonl": lambda path: TuningLog(path, 1.0).time(Option("csr", "k", "d", 1.0, 8, Work(1, 1)), resolve("cpu"),
                                                           1, lambda _: 1.0),
    "calibration.json": lambda path: calibration.keep(DEFAULT_MACHINE, 1, path),
    "x.fatbin": lambda path: toolchain._keep(path, b"new"),
}


@pytest.mark.filterwarnings("ignore:.*cannot be written")
@pytest.mark.parametrize("name", KEEPERS)
def test_nothing_is_kept_where_others_may_write(name, tmp_path):
    (tmp_path / "precious").write_bytes(b"old")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / name).symlink_to("../precious")
    with contextlib.suppress(CalibrationError):
        KEEPERS[name](shared / name)
    assert (tmp_path / "precious").read_bytes() == b"old"


def test_code_is_not_taken_from_where_others_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packed = portable.pack(model("g (float[2] x) => (float[2] y) { y = Relu(x) }"), CompileOptions())
    planted = portable.kept_path(packed)
    planted.parent.mkdir(parents=True)
    foreign = small_artifact()
    foreign.save(planted)
    assert portable.build_once(packed).library == foreign.library
    planted.parent.chmod(0o777)
    with pytest.warns(UserWarning, match="is ignored"):
        assert portable.build_once(packed).library != foreign.library
    assert Artifact.load(planted).library == foreign.library


def test_a_folder_of_the_cache_is_the_users_alone(tmp_path):
    before = os.umask(0o002)
    try:
        files.make_own(tmp_path / "cache" / "sparsec" / "compiled")
    finally:
        os.umask(before)
    made = tmp_path / "cache" / "sparsec" / "compiled"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (made, *made.parents[:2])] == [0o700] * 3


def test_caches_that_are_pipes_are_neither_read_nor_written(pipe):
    log = TuningLog(pipe, 1.0)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert log.time(Option("csr", "k", "d", 1.0, 8, Work(1, 1)), resolve("cpu"), 1, lambda _: 1.0) == 1.0
    assert calibration_of(resolve("cpu"), 1, pipe).source == SHIPPED


@pytest.mark.parametrize("seconds", ["NaN", "-1.0", "Infinity", "0"])
def test_times_that_are_none_are_not_believed(seconds, tmp_path):
    path = tmp_path / "tuning.jsonl"
    path.write_text(f'{{"key": "a", "seconds": {seconds}}}\n')
    with pytest.warns(UserWarning, match="1 line"):
        assert TuningLog(path, 0.0)._seconds == {}


def test_an_empty_cache_variable_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert files.cache_folder() == tmp_path / ".cache" / "sparsec"


@pytest.mark.parametrize("name", ["file", "arr_0", "args", "kwds", "allow_pickle", "a/b"])
def test_arrays_of_any_name_are_written(name, tmp_path):
    options.write_arrays(tmp_path / "y.npz", {name: np.ones(3)})
    np.testing.assert_array_equal(options.read_arrays(tmp_path / "y.npz")[name], 1)


@pytest.mark.parametrize("text", ["plain", "é 😀", "a\x1b[2J", "a\nb", "\u202eb", "\x9b", "\ud800"])
def test_errors_command_no_terminal(text):
    shown = str(ArtifactError(text))
    assert shown.isprintable()
    assert shown == printable(text)
    assert (shown == text) == text.isprintable()


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_every_stored_recipe_says_what_it_takes(recipe):
    assert recipe.elements is not Recipe.elements
