"""How each tool takes a scene to a mosaic, as its documentation says to; runs inside that tool's environment.

All are given the scene's values as the generator takes them, because none of them knows radar's units: that work is
done for them, before the clock. Where a tool has settings, those that suit it best were taken.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import distribution
from itertools import islice
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, nn

from bench.peer.protocol import Job
from sar2optical.scene.decoding import decode
from sar2optical.tiling.windows import window_grid

EMPTY = -1.0
"""What the generator sees where a scene has nothing, in tools that do not know of it: of all constants the one that
spoils the rest of a window least (docs/decisions, "Holes are mirrored")."""

_STRIP = 512

Layout = tuple[Sequence[int], Sequence[int]]
"""First row of each row of windows, and first column of each column."""


class Timed(nn.Module):
    """A generator that knows how long it was at work."""

    def __init__(self, generator: nn.Module, *, units: bool = False) -> None:
        super().__init__()
        self.generator = generator
        self.units = units
        """Takes and gives 0 to 1 in place of -1 to 1."""
        self.seconds = 0.0
        self.windows = 0

    def forward(self, sar: Tensor) -> Tensor:
        """Translate a batch."""
        began = time.perf_counter()
        made: Tensor = (self.generator(sar * 2 - 1) + 1) / 2 if self.units else self.generator(sar)
        self.seconds += time.perf_counter() - began
        self.windows += len(sar)
        return made


def plain(job: Job, model: Timed) -> Layout:
    """Read a window, run the generator, write the window: no overlap, no blending."""
    with rasterio.open(job.scene) as scene:
        plan = window_grid(scene.shape, job.window, 0)
        places = [Window(col, row, job.window, job.window) for row in plan.rows for col in plan.cols]
        with rasterio.open(job.out, "w", **_profile(scene)) as out, torch.inference_mode():
            _georeference(scene, out)
            for some in _batches(places, job.batch):
                sar = np.stack([_filled(scene.read(window=place)) for place in some])
                for place, image in zip(some, model(torch.from_numpy(sar)).numpy(), strict=True):
                    out.write(decode(image), window=place)
    return plan.rows, plan.cols


def opensr(job: Job, model: Timed) -> Layout:
    """Run opensr-utils: files of windows, then a blend in files, with the scene's mask."""
    process = import_module("opensr_utils.pipeline").large_file_processing
    with process(
        root=job.scene,
        model=model,
        window_size=(job.window, job.window),
        factor=1,
        overlap=job.overlap,
        batch_size=job.batch,
        device="cpu",
        output_path=job.out,
        overwrite=True,
    ) as runner:
        places = runner.image_meta["image_windows"]
        runner.run()
    return _sorted(place.row_off for place in places), _sorted(place.col_off for place in places)


def geoai(job: Job, model: Timed) -> Layout:
    """Run geoai: windows are read one by one, sums are held for the whole scene, in float64."""
    import_module("geoai.inference").predict_geotiff(
        model=model,
        input_raster=job.scene,
        output_raster=job.out,
        tile_size=job.window,
        overlap=job.overlap,
        batch_size=job.batch,
        num_classes=3,
        output_dtype="uint8",
        output_nodata=0,
        preprocess_fn=_filled,
        postprocess_fn=decode,
        device="cpu",
        compress="none",
        verbose=False,
    )
    with rasterio.open(job.scene) as scene:
        plan = window_grid(scene.shape, job.window, job.overlap)  # its own comes to the same
    return plan.rows, plan.cols


def toolbelt(job: Job, model: Timed) -> Layout:
    """Run pytorch-toolbelt: the scene, the sum and the weights are held; windows reach over the scene's edges."""
    tiles = _toolbelt_tiles()
    with rasterio.open(job.scene) as scene, torch.inference_mode():
        image = _filled(scene.read(1))
        slicer = tiles.ImageSlicer(
            image.shape, tile_size=job.window, tile_step=job.window - job.overlap, weight="pyramid"
        )
        merger = tiles.TileMerger(slicer.target_shape, 3, slicer.weight)
        for some in _batches(zip(slicer.iter_split(image, value=EMPTY), slicer.crops, strict=True), job.batch):
            sar = torch.from_numpy(np.stack([tile for (tile, _), _ in some])[:, None])
            merger.integrate_batch(model(sar), [crop for _, crop in some])
        merged = merger.merge_().numpy()
        top, left = slicer.margin_top, slicer.margin_left
        _write(job.out, scene, merged[:, top : top + image.shape[0], left : left + image.shape[1]])
    return _sorted(box[1] for box in slicer.bbox_crops), _sorted(box[0] for box in slicer.bbox_crops)


def monai(job: Job, model: Timed) -> Layout:
    """Run MONAI: the scene, the sum and the weights are held."""
    inferer = import_module("monai.inferers").SlidingWindowInferer(
        roi_size=(job.window, job.window),
        sw_batch_size=job.batch,
        overlap=job.overlap / job.window,
        mode="gaussian",
        cache_roi_weight_map=True,
    )
    with rasterio.open(job.scene) as scene, torch.inference_mode():
        image = _filled(scene.read())
        made = inferer(torch.from_numpy(image)[None], model)
        _write(job.out, scene, made[0].numpy())
        plan = window_grid(scene.shape, job.window, job.overlap)  # its own comes to the same
    return plan.rows, plan.cols


WAYS: dict[str, Callable[[Job, Timed], Layout]] = {
    "plain": plain,
    "opensr-utils": opensr,
    "geoai-py": geoai,
    "pytorch-toolbelt": toolbelt,
    "MONAI": monai,
}


def _toolbelt_tiles() -> Any:
    """Load the one file that is needed: the package imports torchvision, of which there may be no build for a CPU."""
    path = distribution("pytorch-toolbelt").locate_file("pytorch_toolbelt/inference/tiles.py")
    spec = importlib.util.spec_from_file_location("tiles", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _filled(sar: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace what is no measurement; changes its argument."""
    return np.nan_to_num(sar, copy=False, nan=EMPTY)


def _profile(scene: Any) -> dict[str, Any]:
    """Give the quickest GeoTIFF to write: no compression, tiles of a window."""
    side = {"blockxsize": 256, "blockysize": 256}
    size = {"height": scene.height, "width": scene.width, "count": 3, "dtype": "uint8"}
    return {"driver": "GTiff", "tiled": True, "compress": "none", "bigtiff": "if_safer", **side, **size}


def _georeference(scene: Any, out: Any) -> None:
    points, crs = scene.gcps
    if points:
        out.gcps = (points, crs)
    else:
        out.crs, out.transform = scene.crs, scene.transform


def _write(path: str, scene: Any, image: NDArray[np.float32]) -> None:
    """Write what a tool holds, as it does not write itself: by strips, which takes least memory."""
    with rasterio.open(path, "w", **_profile(scene)) as out:
        _georeference(scene, out)
        for top in range(0, scene.height, _STRIP):
            rows = image[:, top : top + _STRIP]
            out.write(decode(rows), window=Window(0, top, scene.width, rows.shape[1]))


def _batches(items: Any, size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def _sorted(starts: Any) -> Sequence[int]:
    return sorted({int(start) for start in starts})
