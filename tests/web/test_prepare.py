"""The files that the browser demo takes from the package."""

import importlib.util
import json
import re
from pathlib import Path

import rasterio

from sar2optical.engines.registry import bundled
from sar2optical.scene.units import guess_unit


def prepared(folder, monkeypatch):
    spec = importlib.util.spec_from_file_location("prepare", Path(__file__).parents[2] / "web" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PUBLIC", folder / "public")
    monkeypatch.setattr(module, "GENERATED", folder / "generated")
    module.main()
    return folder


def test_the_site_gets_model_examples_and_unit_names(tmp_path, monkeypatch):
    folder = prepared(tmp_path, monkeypatch)
    assert (folder / "public" / "generator.onnx").read_bytes() == bundled().read_bytes()
    for number in (1, 2, 3):
        with rasterio.open(folder / "public" / "examples" / f"example-{number}.tif") as scene:
            values = scene.read(1)
            assert (scene.shape, values.min() > 0) == ((448, 448), True)
            assert guess_unit("uint16", (scene.tags()["UNITS"],), values.ravel().astype("f4"))[0] == "dn"
    names = json.loads((folder / "generated" / "units.json").read_text())
    found = [unit for pattern, unit, _ in names["units"] if re.search(pattern, "sigma0_vh")]
    assert found == ["power"]
    assert any(re.search(pattern, "phase") for pattern, _ in names["other"])
