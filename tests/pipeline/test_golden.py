"""One golden mosaic: the whole way of the data gives the pixels that the release before this layout gave."""

from __future__ import annotations

import hashlib

import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.signature import Bound, Stretch
from sar2optical.testing import SimulatedScene, write_scene
from tests.conftest import make_local

GOLDEN = "ac7ffae462c498ae779e64dd314e4500d605051c09605b3ac8eb0dc526ebe908"
"""SHA-256 of pixels and mask by the package at commit ac55ef5, whose windows began at multiples of the stride."""

HEIGHT, WIDTH, OVERLAP = 464, 672, 48
"""Windows of 256 begin at 0 and 208, and at 0, 208 and 416, whether they are spaced evenly or at the stride."""


def test_the_mosaic_of_a_simulated_scene_stays_the_same(tmp_path):
    write_scene(tmp_path / "scene.tif", SimulatedScene(height=HEIGHT, width=WIDTH))
    options = TranslateOptions(
        stretch=Stretch(Bound(1, True), Bound(99, True)), overlap=OVERLAP, engine=EngineOptions(precision="fp32")
    )
    translate(tmp_path / "scene.tif", tmp_path / "out.tif", model=make_local(tmp_path / "m.onnx"), options=options)
    with rasterio.open(tmp_path / "out.tif") as mosaic:
        found = hashlib.sha256(mosaic.read().tobytes() + mosaic.dataset_mask().tobytes()).hexdigest()
        assert mosaic.read().std() > 30
    assert found == GOLDEN
