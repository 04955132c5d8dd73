"""What is shipped works: source distribution, wheel from it, installed where there is no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import sadik
from sadik import kernels

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    *(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__", "sadik-data"),
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, **options) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SADIK_", "PYTHON"))
    }
    options.setdefault("env", environment | options.pop("more", {}))
    result = subprocess.run(
        [str(item) for item in command], capture_output=True, text=True, timeout=540, check=False, **options
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, made from a copy: building writes beside the sources."""
    directory = tmp_path_factory.mktemp("sdist")
    tree = shutil.copytree(ROOT, directory / "tree", ignore=LEFT_OUT)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", directory, tree)
    (archive,) = directory.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built from nothing but the source distribution.

    The debug flags compile several times faster and change nothing of what is packed.
    """
    directory = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (tree,) = (path for path in directory.iterdir() if path.is_dir())
    more = {"SADIK_DEBUG": "1"}
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, tree, more=more)
    (archive,) = directory.glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel, and with the dependencies of this one."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    # Packages found by way of a .pth file have their own .pth files ignored, so an editable Sadik stays out.
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    )
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install)
    return python


def test_source_distribution_has_all_that_a_build_needs(sdist):
    """Sources of the kernels and what they include, documents, tests; nothing that was built."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = [path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").iterdir()]
    needed += [
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "setup.py",
        "sadik/py.typed",
        "tests/test_tree.py",
    ]
    assert [name for name in needed if name not in names] == []
    assert [name for name in names if name.endswith((".so", ".pyc"))] == []


def test_wheel_has_kernels_stubs_and_marker(wheel):
    """A wheel without kernels once was built in silence; one without stubs has no types."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in kernels.NAMES:
        assert f"sadik/kernels/native/{name}{suffix}" in names
        assert f"sadik/kernels/native/{name}.pyi" in names
        assert f"sadik/kernels/reference/{name}.py" in names
    assert "sadik/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    extra = [name for name in names if not re.match(r"sadik(-[\w.]+\.dist-info)?/", name)]
    assert extra == [], "only the package belongs in a wheel"
    assert not re.search(r"none-any", wheel.name), "a wheel with kernels is of one platform"


def test_installed_wheel_runs_without_compiler(python, tmp_path):
    """Every kernel and every module imports from the wheel where there is no compiler and no source."""
    code = (
        "import importlib, pkgutil, sadik\n"
        "from sadik import kernels\n"
        "for name in kernels.NAMES: print(getattr(kernels, name).__file__)\n"
        "for module in pkgutil.walk_packages(sadik.__path__, 'sadik.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sadik.__file__)\n"
    )
    bare = {"PATH": str(python.parent), "CC": "/bin/false"}
    files = run(python, "-I", "-c", code, cwd=tmp_path, env=bare).split()
    assert len(files) == len(kernels.NAMES) + 1
    site = python.parent.parent
    assert [path for path in files if not Path(path).is_relative_to(site)] == []
    assert all(path.endswith(".so") for path in files[:-1])


def test_installed_command_tells_its_version(python, tmp_path):
    """The script of the wheel starts, and is the version that was built."""
    assert run(python.parent / "sadik-node", "--version", cwd=tmp_path) == f"sadik-node {sadik.__version__}\n"
