"""The notebooks of the documentation run from top to bottom, on simulated data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(path, 4)
    kernel = {"kernel_name": "python3", "resources": {"metadata": {"path": str(tmp_path)}}}
    done = NotebookClient(notebook, timeout=200, **kernel).execute()  # raises where a cell fails
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if "Traceback" in output.get("text", "")]


def test_notebooks_are_committed_with_their_pictures():
    assert len(NOTEBOOKS) >= 4
    for path in NOTEBOOKS:
        text = path.read_text()
        assert [cell.outputs for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][-1]
        assert path.stat().st_size < 400_000
        assert "/home/" not in text
        assert "/tmp/" not in text
