"""The documentation: its code runs as it stands, its links lead somewhere, its pages ask no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import line_here

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if re.search(r"^```(?:bash|python)$", page.read_text(), re.M)]
BIN = Path(sys.executable).parent


def blocks_of(page):
    return re.findall(r"^```(bash|python)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def run(arguments, folder):
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(DOCS).as_posix() for page in PAGES])
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    for kind, block in blocks_of(page):
        if kind == "python":
            run([sys.executable, "-c", block], tmp_path)
            continue
        for line in block.splitlines():
            done = line_here(line, tmp_path)
            assert done.returncode == 0, f"{line}: {done.stderr}"
            assert "Traceback" not in done.stderr


def test_the_tutorials_have_code():
    assert {page.name for page in PAGES} >= {"first-mosaic.md", "own-generator.md", "many-scenes.md", "plans.md"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING -" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    loaded = r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//"
    assert not [page for page in pages if re.search(loaded, page.read_text())]
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text()
    assert all(f'id="sar2opt-{name}"' in commands for name in ("scene", "batch", "export", "train", "data", "doctor"))
    assert "--overlap" in commands
