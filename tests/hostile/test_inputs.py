"""What commands read is never overwritten by what they write: crossed from the registry of commands."""

import inspect
import itertools
import os

import numpy as np
import onnx
import pytest
from typer.models import ArgumentInfo

from sparsec import cli, files
from sparsec.cli.inputs import flag_of, roles
from sparsec.errors import UsageError
from tests.hostile.artifacts import small_artifact
from tests.support.texts import model

LINEAR = 'g (float["n",8] x) => (float["n",64] y) <float[8,64] w> { y = MatMul(x, w) }'
PAIRS = [(command, read, written) for command, function in cli.COMMANDS.items()
         for read, one in roles(function).items() if one.reads
         for written, other in roles(function).items() if not other.reads and not other.is_folder]
SPELT = {
    "itself": lambda path: path,
    "relative": lambda path: os.path.relpath(path.parent / "." / ".." / path.parent.name / path.name),
    "by a link": lambda path: linked(path, "link", os.symlink),
    "by links": lambda path: linked(linked(path, "link", os.symlink), "links", os.symlink),
    "by its other name": lambda path: linked(path, "other", os.link),
}
FOLDERS = ("tokenizer", "wheels")


def linked(path, name, link):
    link(path, path.parent / name)
    return path.parent / name


@pytest.fixture
def external(tmp_path):
    """A model whose weight lies in `weights.bin`, and beside both everything else that commands read."""
    proto = model(LINEAR)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, 64, dtype=np.float32), "w"))
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    small_artifact().save(tmp_path / "model.sparsec")
    for name in ("model.onnx.sig", "generation_config.json"):
        (tmp_path / name).write_bytes(b"{}")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 8), np.float32))
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(monkeypatch, capsys, words):
    """What a command line says that is used wrongly."""
    monkeypatch.setattr("sys.argv", ["sparsec", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    return said


def words(command, given):
    """A command line with these values and whatever else the command needs."""
    positional, named = [], []
    for name, parameter in inspect.signature(cli.COMMANDS[command], eval_str=True).parameters.items():
        info = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
        if info is None:
            continue
        if name in given or (parameter.default is inspect.Parameter.empty and parameter.kind is not
                             inspect.Parameter.VAR_KEYWORD):
            value = given.get(name, given["else"] if getattr(info, "file_okay", True) else given["else"].parent)
            if isinstance(info, ArgumentInfo):
                positional.append(value)
            else:
                named += [flag_of(name, info), value]
    return [command, *positional, *named]


@pytest.mark.parametrize(("command", "read", "written", "spelling"), [
    (*pair, spelling) for pair, spelling in zip(PAIRS, itertools.cycle(SPELT), strict=False)])
def test_no_command_writes_over_what_it_reads(command, read, written, spelling, external, monkeypatch, capsys):
    path = external / ("model.onnx" if read not in FOLDERS else "x.npz")
    before = contents(external)
    given = {read: external if read in FOLDERS else path, written: SPELT[spelling](path),
             "else": external / "x.npz" if read != "inputs" else external / "model.onnx"}
    assert "would be lost" in refused(monkeypatch, capsys, words(command, given))
    assert before.items() <= contents(external).items()


@pytest.mark.parametrize(("command", "written"), sorted({(command, written) for command, _, written in PAIRS}))
def test_a_folder_that_is_missing_is_told_before_any_work(command, written, external, monkeypatch, capsys):
    given = {written: external / "none" / "y", "else": external / "x.npz"}
    assert "its folder does not exist; make it first" in refused(monkeypatch, capsys, words(command, given))


@pytest.mark.parametrize(("name", "what"), [
    ("weights.bin", "external data of"), ("model.onnx.sig", "the signature of"),
    ("generation_config.json", "read beside")])
@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_what_belongs_to_an_input_is_one(command, name, what, external, monkeypatch, capsys):
    given = [command, external / "model.onnx", "--json", external / name]
    assert what in refused(monkeypatch, capsys, given)


def test_weights_are_not_written_over_those_of_the_model(external, monkeypatch, capsys):
    (external / "weights.bin").rename(external / "new.onnx.data")
    proto = onnx.load(external / "model.onnx", load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "new.onnx.data"
    (external / "model.onnx").write_bytes(proto.SerializeToString())
    before = contents(external)
    said = refused(monkeypatch, capsys, ["strip", external / "model.onnx", "-o", external / "new.onnx",
                                         "--no-verify"])
    assert "external data of" in said
    assert contents(external) == before


def test_stages_are_not_written_over_the_model(external, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sparsec", "compile", str(external / "model.onnx"), "--dump-ir",
                                     str(external / "ir"), "-o", str(external / "a"), "--tune", "off"])
    cli.app(standalone_mode=False)
    stage = min((external / "ir").iterdir())
    said = refused(monkeypatch, capsys, ["compile", stage, "--dump-ir", external / "ir", "-o", external / "b"])
    assert "the model itself" in said


def test_outputs_lie_apart_and_out_of_the_cache(external, monkeypatch, capsys):
    cache = external / "cache" / "sparsec" / "tuning.jsonl"
    cache.parent.mkdir(parents=True)
    cache.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(external / "cache"))
    start = ["strip", external / "model.onnx"]
    assert "measured" in refused(monkeypatch, capsys, [*start, "-o", cache])
    assert "the same file as --output" in refused(monkeypatch, capsys, [*start, "-o", external / "a", "--json",
                                                                        external / "." / "a"])
    with files.keeping(lambda path: "kept"), pytest.raises(UsageError, match="kept"):
        files.write(cache, b"")
    files.write(cache, b"")
