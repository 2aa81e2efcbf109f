"""Models of other exporters give the pixels of a slow reference, however they are run."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from sar2optical.engines import EngineOptions
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.bands import SceneOptions
from sar2optical.signature import ModelSignature
from tests.conftest import UTM
from tests.foreign.models import FOREIGN
from tests.foreign.reference import shown, values


def sar(foreign):
    """Return a scene of speckle in the model's unit, float32 (bands, H, W)."""
    rng = np.random.default_rng(9)
    bands = len(foreign.record["bands"])
    land = 0.02 + 0.3 * rng.random((bands, *(-(-side // 20) for side in foreign.shape)))
    land = np.kron(land, np.ones((1, 20, 20)))[:, : foreign.shape[0], : foreign.shape[1]]
    power = land * rng.gamma(4, 0.25, land.shape)
    return (10 * np.log10(power) if foreign.record["unit"] == "db" else np.sqrt(power)).astype(np.float32)


@pytest.fixture(scope="module")
def expected():
    """Values of the slow reference, by model."""
    return {name: values(foreign, sar(foreign)) for name, foreign in FOREIGN.items()}


@pytest.fixture
def case(request, tmp_path, make_raster):
    foreign = FOREIGN[request.param]
    model, signature = foreign.save(tmp_path)
    scene = make_raster(sar(foreign), descriptions=foreign.record["bands"], **UTM)
    return foreign, scene, model, signature


def options(case, *, backend="onnxruntime", batch=None, threads=2, **changes):
    foreign, _, _, signature = case
    return TranslateOptions(
        backend=backend,
        engine=EngineOptions(device="cpu", threads=threads, batch=batch, signature=ModelSignature.read(signature)),
        scene=SceneOptions(unit=foreign.record["unit"]),
        overlap=foreign.overlap,
        blocksize=16,
        **changes,
    )


def run(case, out, **changes):
    translate(case[1], out, model=case[2], options=options(case, **changes))
    with rasterio.open(out) as mosaic:
        assert mosaic.dataset_mask().all()
        return mosaic.read()


each_model = pytest.mark.parametrize("case", FOREIGN, indirect=True)


@each_model
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_pixels_are_those_of_the_slow_reference(case, expected, tmp_path, backend):
    found = run(case, tmp_path / "out.tif", backend=backend)
    wanted = shown(case[0], expected[case[0].name])
    assert np.ptp(wanted) > 60  # a flat picture would agree too
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert (found == wanted).mean() > 0.97
