"""`sar2optical`: all commands as subcommands, environment variables, light imports."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
import rasterio
from click.testing import CliRunner

from sar2optical.cli.group import COMMANDS, main
from tests.conftest import UTM, speckle


def run(*arguments, **environment):
    command = [sys.executable, "-m", "sar2optical", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_subcommand(name):
    result = CliRunner().invoke(main, [name, "--help"], prog_name="sar2optical")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: sar2optical {name}")


def test_help_lists_all_commands_and_imports_none():
    code = (
        "import sys\nfrom sar2optical.cli.group import main\n"
        "try:\n    main(['--help'], prog_name='sar2optical')\nexcept SystemExit:\n    pass\n"
        "print('loaded', sorted(name for name in sys.modules if name.startswith('sar2optical.cli.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    assert result.stdout.splitlines()[-1] == "loaded ['sar2optical.cli.group']"


def test_a_scene_is_translated_by_module_and_by_subcommand(make_raster, identity_model, tmp_path):
    src = make_raster(speckle((60, 70)), descriptions=["VH"], **UTM)
    result = run("scene", src, tmp_path / "out.tif", "--model", identity_model, "-q")
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "out.tif") as mosaic, rasterio.open(src) as scene:
        assert (mosaic.read(1) == scene.read(1)).all()


def test_environment_variables_set_options(make_raster, identity_model, tmp_path):
    """As subcommand and as command of its own; the command line wins."""
    src = make_raster(speckle((60, 70)), descriptions=["VH"], **UTM)
    variables = {
        "SAR2OPT_SCENE_MODEL": str(identity_model),
        "SAR2OPT_SCENE_OVERLAP": "32",
        "SAR2OPT_SCENE_QUIET": "1",
    }
    assert run("scene", src, tmp_path / "a.tif", **variables).returncode == 0
    assert run("scene", src, tmp_path / "b.tif", "--overlap", "48", **variables).returncode == 0
    alone = "from sar2optical.cli.scene import main; main()"
    command = [sys.executable, "-c", alone, str(src), str(tmp_path / "c.tif")]
    subprocess.run(command, check=True, timeout=120, env=os.environ | variables)
    found = []
    for name in "abc":
        with rasterio.open(tmp_path / f"{name}.tif") as mosaic:
            found.append(mosaic.tags()["SAR2OPTICAL_OVERLAP"])
    assert found == ["32", "48", "32"]


def test_an_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output


def options_of(command, path):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield path, parameter
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from options_of(subcommand, (*path, name))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_variable_has_the_name_of_its_option(name):
    command = main.get_command(None, name)
    found = [(path, option) for path, option in options_of(command, (name,)) if not option.is_eager]
    assert found
    for path, option in found:
        words = (*path, *(text[2:] for text in option.opts if text.startswith("--")))
        assert option.envvar == "SAR2OPT_" + "_".join(words[: len(path) + 1]).replace("-", "_").upper()
