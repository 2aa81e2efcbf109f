"""What a user installs: the packages, the weights, and no tool of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, offline."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo", "runs", "node_modules")
    source = shutil.copytree(ROOT, folder / "source", ignore=skip)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield path, archive


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_weights(wheel):
    _, archive = wheel
    names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"sar2optical", "export"}
    files = ("generator.onnx", "generator.int8.onnx", "two_layers.onnx", "MODEL_CARD.md")
    assert {"sar2optical/py.typed", *(f"sar2optical/weights/{name}" for name in files)} <= set(names)
    page = ("index.html", "viewer.js", "viewer.css", "licenses.txt", "page.html")
    assert {f"sar2optical/viewer/static/{name}" for name in page} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_holds_both_sets_of_weights_in_30_megabytes(wheel):
    path, archive = wheel
    weights = sum(info.file_size for info in archive.infolist() if "/weights/" in info.filename)
    assert 9_000_000 < weights < 30_000_000
    assert path.stat().st_size < 30_000_000


@pytest.mark.slow
def test_the_commands_are_on_the_path(wheel):
    _, archive = wheel
    (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    text = archive.read(entry).decode()
    assert "sar2opt-scene = sar2optical.cli.scene:run" in text
    for name, module in (
        ("export", "export"),
        ("data", "data"),
        ("train", "train"),
        ("eval", "evaluate"),
        ("view", "view"),
        ("doctor", "doctor"),
    ):
        assert f"sar2opt-{name} = sar2optical.cli.{module}:main" in text


@pytest.mark.slow
def test_developers_tools_reach_no_user(wheel):
    _, archive = wheel
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    requires = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    base = {line.split(">")[0] for line in requires if "extra" not in line}
    assert base == {"isal", "numpy", "rasterio", "click", "tqdm"}
    for tool in ("pytest", "ruff", "mypy", "rio-cogeo"):
        assert all('extra == "dev"' in line for line in requires if line.startswith(tool))
    assert not any("torch" in line for line in requires if 'extra == "cpu"' in line)


def test_constraints_pin_what_is_depended_on_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = ("cpu", "export", "train", "hub", "cluster", "xarray", "dev")
    named = {*project["dependencies"], *(line for name in used for line in extras[name])}
    names = {line.split(">")[0].split("[")[0] for line in named} - {"sar2optical"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert pinned == names


def test_no_generated_file_is_committed():
    listed = ["git", "-C", ROOT, "ls-files", "--cached", "--ignored", "--exclude-standard"]
    git = subprocess.run(listed, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("not a checkout that git reads")
    assert git.stdout == ""
