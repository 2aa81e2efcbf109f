"""`sar2opt-export` finds its own `export` package beside folders and packages of the same name."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from sar2optical.cli.export import load_export
from sar2optical.errors import BackendNotInstalled

ROOT = Path(__file__).parents[2]
COMMAND = Path(sysconfig.get_path("scripts")) / "sar2opt-export"


def run(command, cwd, *first):
    """Run a command in a folder, with folders before the others on PYTHONPATH."""
    folders = [*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)} if folders else None
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def package(folder):
    """Write a package `export` that fails on import."""
    (folder / "export").mkdir()
    (folder / "export" / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (folder / "export" / "cli.py").write_text("raise RuntimeError('the wrong package')\n")


@pytest.fixture
def entry_point():
    """The command as pip writes it for the entry point in pyproject.toml."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["sar2opt-export"].split(":")
    code = f"import sys; from {module} import {function}; sys.argv[0] = 'sar2opt-export'; sys.exit({function}())"
    return [sys.executable, "-P", "-c", code]


def assert_help(result):
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: sar2opt-export ")
    assert result.stderr == ""


@pytest.mark.parametrize("kind", ["a folder", "a package"])
def test_the_working_folder_may_hold_another_export(tmp_path, kind):
    if kind == "a folder":
        (tmp_path / "export").mkdir()
    else:
        package(tmp_path)
    assert_help(run([COMMAND, "--help"], tmp_path))


def test_another_export_earlier_on_the_path_is_not_imported(tmp_path, entry_point):
    package(tmp_path)
    assert_help(run([*entry_point, "--help"], tmp_path, tmp_path))


def test_the_command_behind_another_export_is_the_whole_command(tmp_path, entry_point):
    package(tmp_path)
    result = run([*entry_point, "none.onnx", "out.onnx"], tmp_path, tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: none.onnx: no such file")


def test_without_its_own_export_the_command_names_the_remedy(tmp_path, entry_point):
    """One line and exit 1, where the installation is incomplete and another `export` is on the path."""
    package(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sar2optical").symlink_to(ROOT / "sar2optical")
    with pytest.raises(BackendNotInstalled, match=r"__init__\.py: no such file: .*pip install --force-reinstall"):
        load_export(tmp_path / "site")
    result = run([*entry_point, "--help"], tmp_path, tmp_path / "site", tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install --force-reinstall sar2optical" in line


def test_loading_it_again_keeps_the_loaded_package():
    import export

    load_export()
    assert sys.modules["export"] is export
