"""Names of generators: which file each means, from where, and what is said where there is none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sar2optical.engines.registry import MODELS, bundled, resolve
from sar2optical.errors import ModelUnreadable
from tests.cli.test_cli import assert_refused, command
from tests.conftest import speckle

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"a generator, for all the cache knows"


@pytest.fixture
def hub_cache(tmp_path):
    """A hub's cache on disk that holds one of the published generators."""
    repo = tmp_path / "hub" / "models--yuulind--pix2pix-sar2rgb"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    snapshot = repo / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "pix2pix_gen_180.pth").write_bytes(CONTENT)
    return tmp_path / "hub"


def resolve_elsewhere(name, cache, *, before="", **environment):
    """Resolve a name in a fresh interpreter: the hub's client reads its environment once."""
    code = (
        "import logging\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from dataclasses import replace\n"
        "from sar2optical.errors import Sar2OpticalError\n"
        "from sar2optical.engines.registry import MODELS, resolve\n"
        f"{before}\n"
        "try:\n"
        f"    print('path', resolve({name!r}))\n"
        "except Sar2OpticalError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    environment = {**inherited, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env=environment
    )


def test_the_bundled_generator_has_two_names_and_needs_no_hub():
    from sar2optical.engines import open_engine

    assert resolve("bundled") == bundled()
    with open_engine(bundled()) as engine:
        assert resolve(engine.signature.name) == bundled()


@pytest.mark.parametrize(
    "given", ["model.onnx", "missing.pth", "folder/pix2pix_gen_180", "./bundled", Path("some") / "where"]
)
def test_a_path_passes_through(given):
    assert resolve(given) == Path(given)


def test_a_file_of_a_generators_name_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bundled").write_bytes(CONTENT)
    assert resolve("bundled").read_bytes() == CONTENT


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelUnreadable, match="pix2pix_gen_181: no such file, and not a known generator") as error:
        resolve("pix2pix_gen_181")
    assert all(name in str(error.value) for name in MODELS)


def test_every_published_generator_says_where_it_is():
    published = {name: entry for name, entry in MODELS.items() if entry.repo}
    assert len(published) == 3
    for name, entry in published.items():
        assert entry.url == f"https://huggingface.co/yuulind/pix2pix-sar2rgb/resolve/main/{name}.pth"


def test_what_the_cache_holds_is_taken_from_there_even_offline(hub_cache):
    result = resolve_elsewhere("pix2pix_gen_180", hub_cache, HF_HUB_OFFLINE="1")
    word, path = result.stdout.split()
    assert word == "path"
    assert Path(path).read_bytes() == CONTENT
    assert "no published checksum" in result.stderr
    assert "downloading" not in result.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [(CONTENT, "path "), (b"another file", "ModelUnreadable ")],
)
def test_a_file_is_checked_against_its_published_checksum(hub_cache, content, said):
    digest = hashlib.sha256(content).hexdigest()
    before = f"MODELS['pix2pix_gen_180'] = replace(MODELS['pix2pix_gen_180'], sha256={digest!r})"
    result = resolve_elsewhere("pix2pix_gen_180", hub_cache, before=before, HF_HUB_OFFLINE="1")
    assert result.stdout.startswith(said)
    if "Unreadable" in said:
        assert f"sha256 is {hashlib.sha256(CONTENT).hexdigest()[:12]}" in result.stdout
        assert "download it again" in result.stdout


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "no answer"]
)
def test_what_cannot_be_fetched_is_one_line_with_the_address(tmp_path, environment):
    result = resolve_elsewhere("pix2pix_gen_265", tmp_path / "empty", **environment)
    (line,) = result.stdout.splitlines()
    assert line.startswith("ModelUnreadable pix2pix_gen_265: cannot be downloaded (")
    assert "https://huggingface.co/yuulind/pix2pix-sar2rgb/resolve/main/pix2pix_gen_265.pth" in line
    assert line.endswith("then give its path")
    assert len(line) < 350
    assert "downloading pix2pix_gen_265 from the Hugging Face hub (yuulind/pix2pix-sar2rgb)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_nothing_is_fetched_unasked(tmp_path):
    result = resolve_elsewhere(
        "pix2pix_gen_265", tmp_path, before="import functools; resolve = functools.partial(resolve, download=False)"
    )
    assert "not in the hub's cache" in result.stdout
    assert "downloading" not in result.stderr


def test_without_the_hubs_client_the_line_to_install_it_is_given(tmp_path):
    result = resolve_elsewhere(
        "pix2pix_gen_180", tmp_path, before="import sys; sys.modules['huggingface_hub'] = None"
    )
    assert result.stdout.startswith("BackendNotInstalled ")
    assert "pip install 'sar2optical[hub]'" in result.stdout


def test_commands_take_names(hub_cache, checkpoint, make_raster, tmp_path):
    (published,) = hub_cache.rglob("pix2pix_gen_180.pth")
    published.write_bytes(checkpoint.read_bytes())
    offline = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    out = tmp_path / "out.onnx"
    made = command("sar2opt-export", "pix2pix_gen_180", out, env=offline)
    assert made.returncode == 0, made.stderr
    assert out.stat().st_size > 1000
    src = make_raster(speckle((40, 50)), descriptions=["VH"])
    mosaic = command("sar2opt-scene", src, tmp_path / "out.tif", "--model", "pix2pix_gen_180", env=offline)
    assert mosaic.returncode == 0, mosaic.stderr
    assert "pytorch" in mosaic.stdout


def test_commands_refuse_names_that_they_do_not_know(make_raster, tmp_path):
    src = make_raster(speckle((40, 50)), descriptions=["VH"])
    for result in (
        command("sar2opt-export", "pix2pix_gen_181", tmp_path / "out.onnx"),
        command("sar2opt-scene", src, tmp_path / "out.tif", "--model", "pix2pix_gen_181"),
    ):
        assert_refused(result, 1, "pix2pix_gen_181: no such file, and not a known generator")
    assert sorted(path.name for path in tmp_path.iterdir()) == [src.name]
