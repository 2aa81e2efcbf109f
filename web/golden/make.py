"""Write golden files for the tests of the web page: inputs, and what the Python package makes of them."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from sar2optical.engines.base import EngineOptions
from sar2optical.engines.registry import bundled
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import UnitsUnknown
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from sar2optical.scene.area import box_area
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.decoding import decode
from sar2optical.scene.encoder import Encoding, convert, encodings_for
from sar2optical.scene.nodata import LEAST_RUN
from sar2optical.scene.sampling import WHOLE_UP_TO
from sar2optical.scene.scene import SAMPLE_LEAST, SAMPLE_LIMIT, open_scene
from sar2optical.scene.units import guess_unit
from sar2optical.signature import UNITS, ModelSignature, Stretch
from sar2optical.testing.simulate import SimulatedScene, write_scene
from sar2optical.tiling.blend import Blender, axis_weights
from sar2optical.tiling.fill import mirror_invalid
from sar2optical.tiling.windows import DEFAULT_OVERLAP, window_grid

BOX = (120, 460, 200, 560)
"""First and past-the-last row and column of the area that is cut from the simulated scene."""


def main(out: Path) -> None:
    """Write all files into a folder."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    record = {
        "encode": encode_cases(rng),
        "resolve": resolve_cases(rng),
        "decode": decode_case(rng),
        "grids": grid_cases(),
        "fill": fill_cases(rng),
        "blend": blend_case(rng),
        "units": unit_cases(rng),
        "selfTest": plain(self_test_input(ModelSignature(name="m"))[0, 0, ::37, ::41]),
        "box": BOX,
        "constants": {
            "overlap": DEFAULT_OVERLAP,
            "wholeUpTo": WHOLE_UP_TO,
            "sampleLimit": SAMPLE_LIMIT,
            "sampleLeast": SAMPLE_LEAST,
            "leastRun": LEAST_RUN,
            "units": UNITS,
        },
    }
    (out / "golden.json").write_text(json.dumps(record))
    write_scenes(out, rng)
    write_published(out / "published.onnx")


def plain(values: NDArray[Any]) -> list[Any]:
    """Convert to a flat list; infinite and missing values to text, which JSON lacks."""
    return [v if np.isfinite(v) else str(v) for v in values.ravel().tolist()]


def encode_cases(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Encode values in every pair of units that can be converted."""
    cases = []
    for source in ("dn", "amplitude", "power", "db"):
        values = rng.gamma(4, 0.02, 64).astype(np.float32)
        if source == "db":
            values = (400 * values - 30).astype(np.float32)
        elif source == "dn":
            values = (900 * values).astype(np.float32)
        values[:2] = 0, -1
        for target in ("dn", "amplitude", "power", "db"):
            low, high = np.percentile(convert(values[2:], source, target), (10, 90)).tolist()
            encoded = Encoding(source, target, low, high).encode(values, None)
            cases.append({"source": source, "target": target, "low": low, "high": high,
                          "values": plain(values), "encoded": plain(encoded)})  # fmt: skip
    return cases


def resolve_cases(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Choose the encoding of samples, in the model's unit or the scene's."""
    cases = []
    for unit, model, stretch in (
        ("dn", "db", None), ("power", "db", None), ("db", "db", ("-25", "p90")), ("byte", "db", None),
        ("dn", "byte", ("p1", "p99")), ("amplitude", "power", ("0", "p99")),
    ):  # fmt: skip
        drawn = rng.gamma(2, 30, 500)
        sample = (-10 - drawn / 20 if unit == "db" else drawn).astype(np.float32)
        signature = ModelSignature(name="m", unit=model)  # type: ignore[arg-type]
        chosen = stretch and Stretch.parse(*stretch)
        (encoding,) = encodings_for(unit, [sample], signature, chosen)  # type: ignore[arg-type]
        cases.append({"unit": unit, "signature": signature.to_json(), "stretch": " ".join(stretch or ()),
                      "sample": plain(sample), "low": encoding.low, "high": encoding.high,
                      "target": encoding.target})  # fmt: skip
    return cases


def decode_case(rng: np.random.Generator) -> dict[str, Any]:
    """Decode values in and beyond [-1, 1]."""
    values = np.concatenate(([-2, -1, 0, 1, 2], rng.uniform(-1.1, 1.1, 200))).astype(np.float32)
    return {"values": plain(values), "bytes": decode(values).tolist()}


def grid_cases() -> list[dict[str, Any]]:
    """Cover scenes with windows; also ones that are smaller than a window, or covered threefold."""
    cases = []
    for shape, window, overlap in (
        ((600, 700), 256, 64),
        ((100, 256), 256, 64),
        ((257, 1000), 256, 200),
        ((90, 31), 16, 0),
    ):
        grid = window_grid(shape, window, overlap)
        weights = axis_weights(grid.cols, window)
        cases.append({"shape": shape, "window": window, "overlap": overlap, "rows": grid.rows, "cols": grid.cols,
                      "weights": plain(weights)})  # fmt: skip
    return cases


def fill_cases(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Fill a corner, a border, a hole, scattered pixels and a single valid one."""
    side = 24
    corner, border, hole, single = (np.ones((side, side), np.bool_) for _ in range(4))
    corner[10:, 7:] = False
    border[:, :19] = False
    hole[3:20, 5:9] = False
    single[:] = False
    single[5, 6] = True
    scattered = rng.random((side, side)) > 0.6
    cases = []
    for valid in (corner, border, hole, scattered, single):
        image = rng.uniform(-1, 1, (1, side, side)).astype(np.float32)
        cases.append({"side": side, "image": plain(image), "valid": valid.astype(int).ravel().tolist(),
                      "filled": plain(mirror_invalid(image, valid))})  # fmt: skip
    return cases


def blend_case(rng: np.random.Generator) -> dict[str, Any]:
    """Blend random windows."""
    grid = window_grid((37, 45), 16, 6)
    blender = Blender(grid, 1)
    images, rows = [], []
    for row in range(len(grid.rows)):
        blender.begin(row)
        for col in range(len(grid.cols)):
            image = rng.uniform(-1, 1, (1, 16, 16)).astype(np.float32)
            images.append(plain(image))
            blender.add(blender.weight(row, col, image))
        rows.append(np.array(blender.finish(row).image()[0]))
    return {"shape": grid.shape, "window": 16, "overlap": 6, "images": images, "mosaic": plain(np.concatenate(rows))}


def unit_cases(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Guess units; null where Python refuses."""
    dn = rng.gamma(4, 60, 300).astype(np.float32).round()
    db = rng.normal(-12, 3, 300).astype(np.float32)
    power: NDArray[np.float32] = (10 ** (db / 10)).astype(np.float32)
    cases = []
    samples: tuple[tuple[str, tuple[str, ...], Any], ...] = (
        ("uint16", (), dn), ("uint8", (), dn / 4), ("float32", (), db), ("float32", (), power),
        ("float32", ("Sigma0_VH_db",), db), ("float32", ("Sigma0_VH",), power), ("float32", ("Gamma0_VV",), db),
        ("uint16", ("amplitude DN", "VH"), dn), ("uint16", ("x",), dn / 300), ("float32", ("phase",), power),
        ("float32", ("S1A_IW_20200101T000000_DVP_RTC30_G_gpuned_0000_VV.tif",), power),
        ("uint8", ("x_db.png",), dn / 4), ("float32", ("power amplitude",), power), ("int16", (), dn),
    )  # fmt: skip
    for dtype, names, sample in samples:
        try:
            unit: str | None = guess_unit(dtype, names, sample)[0]
        except UnitsUnknown:
            unit = None
        cases.append({"dtype": dtype, "names": names, "sample": plain(sample), "unit": unit})
    return cases


def write_scenes(out: Path, rng: np.random.Generator) -> None:
    """Write scenes, and their mosaics by the fp32 engine of ONNX Runtime."""
    simulated = out / "simulated.tif"
    write_scene(simulated, SimulatedScene(height=620, width=700, seed=11))
    with rasterio.open(simulated) as source:
        dn, profile = source.read(1), source.profile
    top, bottom, left, right = BOX
    decibels = out / "decibels.tif"  # two bands in dB, with NaN and a declared nodata
    db = np.where(dn > 0, 20 * np.log10(np.maximum(dn, 1) / 2500), np.nan).astype(np.float32)
    db[200:210, 300:330] = np.nan
    db[400, 400:420] = -999
    float_profile = {**profile, "dtype": "float32", "nodata": -999, "count": 2, "compress": "lzw"}
    with rasterio.open(decibels, "w", **float_profile) as target:
        target.write(db - 6, 1)
        target.write(db, 2)
        target.set_band_description(1, "HV_dB")
        target.set_band_description(2, "VV_dB")
    undeclared = out / "undeclared.tif"  # power with a border of zeros that is not declared
    power = np.where(dn > 0, (np.maximum(dn, 1) / 2500.0) ** 2, 0).astype(np.float32)
    with rasterio.open(undeclared, "w", **{**profile, "dtype": "float32", "nodata": None}) as target:
        target.write(power, 1)
        target.set_band_description(1, "Sigma0_VH")
    grey = np.clip(dn[top : top + 200, left : left + 180] / 3, 0, 255).astype(np.uint8)
    with rasterio.open(out / "chip.png", "w", driver="PNG", height=200, width=180, count=1, dtype="uint8") as target:
        target.write(grey, 1)
    write_packed(out / "packed.tif", db, profile)
    with rasterio.open(
        out / "bands.tif", "w", **{**float_profile, "nodata": None}
    ) as target:  # no name, no certain unit
        target.write(np.stack([power / 4, power]))
    unnamed = out / "unnamed.tif"  # power whose unit no name tells, on a rotated grid
    turned = profile["transform"] @ rasterio.Affine.rotation(12)
    with rasterio.open(
        unnamed, "w", **{**profile, "dtype": "float32", "nodata": np.nan, "transform": turned}
    ) as target:
        target.write(np.where(dn > 0, (np.maximum(dn, 1) / 2500.0) ** 2, np.nan).astype(np.float32), 1)
    for name in ("simulated.tif", "decibels.tif", "undeclared.tif", "chip.png", "packed.tif"):
        mosaic_of(out / name, out / f"{name.partition('.')[0]}.mosaic.tif")
    mosaic_of(unnamed, out / "unnamed.mosaic.tif", scene=SceneOptions(unit="power"))
    west, north = profile["transform"] @ (left, top)
    east, south = profile["transform"] @ (right, bottom)
    area = box_area((west, south, east, north), profile["crs"].to_string())
    mosaic_of(simulated, out / "area.mosaic.tif", area=area)
    with open_scene(simulated, ("VH",)) as scene:
        (sample,) = scene.read_samples()
        (out / "sample.json").write_text(
            json.dumps({"size": sample.size, "sum": float(sample.sum(dtype=np.float64))})
        )


def write_packed(path: Path, db: NDArray[np.float32], profile: dict[str, Any]) -> None:
    """Write hundredths of dB in int16 with a mask, placed by control points only."""
    height, width = db.shape
    places = [GroundControlPoint(row, col, col / 1e4 + row / 1e5, -row / 1e4) for row, col in
              ((0, 0), (0, width), (height, 0), (height, width), (height // 2, width // 3))]  # fmt: skip
    chosen = {key: profile[key] for key in ("driver", "height", "width", "tiled", "blockxsize", "blockysize")}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", dtype="int16", count=1, gcps=places, crs="EPSG:4326", **chosen) as target,
    ):
        target.write(np.where(np.isfinite(db), 100 * db, 5).astype(np.int16), 1)
        target.write_mask(np.isfinite(db) & (db > -900))
        target.scales = (0.01,)
        target.units = ("dB",)


def mosaic_of(source: Path, mosaic: Path, **options: Any) -> None:
    """Write a mosaic by the fp32 engine of ONNX Runtime, and its pixels as RGBA bytes, 0 where invalid."""
    engine = EngineOptions(precision="fp32", device="cpu")
    chosen = TranslateOptions(backend="onnxruntime", engine=engine, overwrite=True, **options)
    translate(source, mosaic, options=chosen)
    with rasterio.open(mosaic) as made:
        rgb, valid = made.read(), made.dataset_mask() > 0
    pixels = np.concatenate((np.where(valid, rgb, 0), np.where(valid, 255, 0)[None].astype(np.uint8)))
    rgba = source.parent / f"{mosaic.name.partition('.')[0]}.rgba"
    rgba.write_bytes(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes())


def write_published(path: Path) -> None:
    """Write the bundled generator as a published one is: an input of 1 x 3 x 256 x 256, and no signature."""
    model = onnx.load(bundled())
    del model.metadata_props[:]
    graph = model.graph
    first = graph.input[0].name
    picture = onnx.helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, (1, 3, 256, 256))
    axes = onnx.helper.make_tensor("picture_axes", onnx.TensorProto.INT64, (1,), (1,))
    mean = onnx.helper.make_node("ReduceMean", ("picture", "picture_axes"), (first,), keepdims=1)
    graph.node.insert(0, mean)
    graph.initializer.append(axes)
    del graph.input[:]
    graph.input.append(picture)
    onnx.save(model, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "out")
