"""sparsec-runtime: sessions without a compiler, from the wheel alone and in whole sparsec without the libraries."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import parallel_artifact

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "distributions" / "runtime"
DEPENDENCIES = ("tvm_ffi", "ml_dtypes", "msgspec", "numpy", "numpy.libs", "typing_extensions.py")
COMPILERS = ("matplotlib", "onnxscript", "onnx", "onnx_ir", "onnxruntime", "typer", "rich", "scipy", "jinja2", "torch")

RUN = """
import sys
import numpy as np

class Refusing:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in {compilers}, name

sys.meta_path.insert(0, Refusing())
import sparsec
session = sparsec.InferenceSession(sys.argv[1])
x = np.arange(64, dtype=np.float32)
np.testing.assert_array_equal(session.run(None, {{"x": x}})[0], 2 * x)
print(sparsec.__version__, sparsec.__file__)
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "model.sparsec"
    parallel_artifact().save(path)
    return path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's contents, built from a copy of the sources so that nothing is left beside them."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("sparsec", "distributions"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", built,
                    source / "distributions" / "runtime"], check=True)
    wheel, = built.glob("sparsec_runtime-*-py3-none-manylinux*.whl")
    assert wheel.stat().st_size < 4e6
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    for name in DEPENDENCIES:
        (folder / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    return folder


def bare(folder, *arguments):
    """Python with nothing but a folder on its path."""
    code = f"import sys; sys.path.append({str(folder)!r}); sys.argv.pop(1)\n"
    option, rest, *further = arguments
    run = f"import runpy; runpy.run_module({rest!r}, run_name='__main__')" if option == "-m" else rest
    return subprocess.run([sys.executable, "-I", "-S", "-c", code + run, "", *further], capture_output=True, text=True,
                          check=False, cwd=folder)


def test_a_session_needs_none_of_the_compilers_libraries(artifact):
    code = RUN.format(compilers=COMPILERS)
    done = subprocess.run([sys.executable, "-c", code, artifact], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_runs_artifacts_by_itself(unpacked, artifact):
    done = bare(unpacked, "-c", RUN.format(compilers=(*COMPILERS, "tvm")), artifact)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1].startswith(str(unpacked))


def test_what_the_wheel_leaves_out_says_what_to_install(unpacked):
    done = bare(unpacked, "-c", "import sparsec; sparsec.compile('model.onnx')")
    assert "ToolchainError: sparsec.compile needs the compiler" in done.stderr
    done = bare(unpacked, "-m", "sparsec", "compile", "model.onnx")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "install sparsec in its place" in done.stderr


def test_the_distributions_are_of_one_version():
    whole, runtime = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, FOLDER))
    for key in ("version", "requires-python", "license"):
        assert whole[key] == runtime[key]
    pinned = [*whole["dependencies"], *(each for extra in ("text", "signatures")
                                        for each in whole["optional-dependencies"][extra])]
    mine = [*runtime["dependencies"], *(each for extra in runtime["optional-dependencies"].values() for each in extra)]
    assert set(mine) <= set(pinned)
