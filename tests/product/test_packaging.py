"""The wheel: it holds the package alone, and a bare environment can compile with it."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "sparsec" / "models" / "data" / "lenet300-digits-95.onnx"


def run(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources so that nothing is left beside them."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "sparsec", source / "sparsec", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", target, source, cwd=target)
    return next(target.glob("*.whl"))


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"sparsec", wheel.name.split("-py3")[0] + ".dist-info"}
    sources = (path for path in (ROOT / "sparsec").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)) for path in sources} <= set(names)


def test_a_bare_environment_compiles_with_the_wheel(wheel, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment)
    python, site = environment / "bin" / "python", next(environment.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert "compile" in run(environment / "bin" / "sparsec", "--help", cwd=tmp_path)
    out = run(environment / "bin" / "sparsec", "compile", MODEL, "--tune", "off", cwd=tmp_path)
    assert "outputs match onnxruntime" in out
    assert run(python, "-c", "import sparsec; print(sparsec.__file__)", cwd=tmp_path).startswith(str(site))


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused_with_a_sentence(system):
    script = f"import setuptools, runpy, sys; sys.platform = {system!r}; runpy.run_path({str(ROOT / 'setup.py')!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sparsec runs on Linux (x86-64 or aarch64) and this is {system}; ")
    assert "Traceback" not in done.stderr


def test_the_demo_runs(tmp_path):
    out = run(sys.executable, ROOT / "examples" / "demo.py", cwd=tmp_path)
    assert "as fast as onnxruntime" in out


def test_dependencies_are_pinned_to_a_major_version():
    requirements = importlib.metadata.requires("sparsec")
    assert [r for r in requirements if "<" not in r] == []
