"""What tests of the command line share."""

import pytest

from tests.support.cli import sparsec, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.onnx, and model.sparsec compiled from it by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_model(folder / "model.onnx")
    out = sparsec("compile", folder / "model.onnx", "-o", folder / "model.sparsec", "--json", folder / "compile.json",
                  "--dump-ir", folder / "ir", "--tune", "off")
    (folder / "compile.txt").write_text(out)
    return folder
