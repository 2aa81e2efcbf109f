"""The README's commands and Python run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sar2optical.testing import SimulatedScene, write_scene
from tests.cli.test_cli import line_here
from tests.conftest import speckle

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, checkpoint):
    """A folder with the files that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    write_scene(folder / "scene.tif", SimulatedScene(height=600, width=700))
    write_scene(folder / "tall.tif", SimulatedScene(height=6300, width=300))  # as much as two workers share
    (folder / "generator.pth").write_bytes(checkpoint.read_bytes())
    import rasterio

    for place, bands, count in (("chips", 1, 8), ("pairs/s1", 1, 8), ("pairs/s2", 3, 8)):
        (folder / place).mkdir(parents=True)
        for k in range(count):
            pixels = np.stack([speckle((256, 256), seed=10 * k + band) for band in range(bands)])
            with rasterio.open(
                folder / place / f"{k:03d}.png", "w", driver="PNG", width=256, height=256, count=bands, dtype="uint8"
            ) as chip:
                chip.write(pixels)
    return folder


def test_there_are_commands_to_run():
    assert sum(line.startswith("sar2opt-") for line in COMMANDS) >= 4


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("pip ")])
def test_a_command_of_the_readme_runs(line, workplace):
    result = line_here(line, workplace)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("pip ")])
def test_what_the_readme_installs_is_an_extra(line):
    (extra,) = re.fullmatch(r"pip install '\.\[(\w+)\]'(?: +# .*)?", line).groups()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]


@pytest.mark.parametrize(("number", "said"), [(0, "(3, 512, 512) openvino "), (1, "(2, 256, 256, 3)")])
def test_the_python_of_the_readme_runs(number, said, workplace):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    assert len([line for line in blocks[number].splitlines() if line]) <= 10
    result = subprocess.run(
        [sys.executable, "-c", blocks[number]],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert said in result.stdout
    assert (workplace / "python.tif").exists()


def test_the_demo_says_where_its_files_are(tmp_path):
    # The tests' own environment stands for the one that the demo would install.
    venv = Path(sys.executable).parents[1]
    folder = tmp_path / "demo"
    result = subprocess.run(
        ["make", "demo", f"VENV={venv}", f"DEMO={folder}", "-o", f"{venv}/.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for name in ("mosaic.tif", "mosaic.png"):
        assert f"{folder}/{name}" in result.stdout
        assert (folder / name).stat().st_size > 100_000


def test_the_test_command_is_what_runs_these_tests():
    assert "    make test " in README
    recipe = (ROOT / "Makefile").read_text()
    assert "-m pytest -n auto --dist loadfile\n" in recipe
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
