"""Options of all commands that translate scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sar2optical.cli.common import engine_options, options, parse_size, parse_stretch, parse_window
from sar2optical.errors import OptionError, OptionWithoutEffect
from sar2optical.signature import UNITS, ModelSignature
from sar2optical.tiling.windows import DEFAULT_OVERLAP

if TYPE_CHECKING:
    from sar2optical.pipeline.options import TranslateOptions

TILINGS = ("web-mercator",)
CALIBRATIONS = ("sigma0", "gamma0", "beta0", "dn")

scene_options = options(
    click.option(
        "--model",
        help="Generator: an engine file (.onnx, .pth, .plan), or a published name (pix2pix_gen_180), which is "
        "downloaded once.  [default: the bundled one]",
    ),
    click.option(
        "--signature",
        metavar="FILE",
        help="JSON file that describes an .onnx model, instead of the signature in it: bands, scaling, output. "
        "sar2opt-export --describe writes a first one.",
    ),
    engine_options,
    click.option(
        "--bands",
        "which",
        type=click.Choice(["rgb", "all"]),
        help="Bands of the mosaic: those shown as red, green and blue, or all of the model.  [default: rgb]",
    ),
    click.option(
        "--output-bands", metavar="NAMES", help="Bands of the mosaic by their names in the signature (B4,B3,B2)."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["uint8", "uint16", "float32"]),
        help="Type of the mosaic: uint8, values as they are shown; uint16, reflectance * 10000 or the model's range; "
        "float32, values as they are.  [default: uint8]",
    ),
    click.option(
        "--band",
        "bands",
        multiple=True,
        help="Polarisation (VH) or index from 1; once for each band of the model.",
    ),
    click.option(
        "--units",
        type=click.Choice(["auto", *UNITS]),
        default="auto",
        show_default=True,
        help="Unit of the scene's values; auto: from the file, or an error.",
    ),
    click.option(
        "--scale",
        type=float,
        help="Factor from stored values to their unit (0.01 for 100 x dB).  [default: from the file]",
    ),
    click.option(
        "--stretch",
        nargs=2,
        callback=parse_stretch,
        metavar="LOW HIGH",
        help="Values, or percentiles of the scene (p1 p99).  [default: the model's own]",
    ),
    click.option("--nodata", type=float, help="Stored value that is no measurement, beside what the file declares."),
    click.option(
        "--window",
        callback=parse_window,
        default="auto",
        show_default=True,
        metavar="PIXELS",
        help="Side of the windows, one that the model takes (256, 512, 1024, 2048); auto: the one that "
        "its file names (sar2opt-export --auto-window), else that of its training.",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(0),
        default=DEFAULT_OVERLAP,
        show_default=True,
        help="Least number of pixels that neighbouring windows share.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Windows per run of the model.  [default: 1 on a CPU, 32 on a GPU, that of a plan]",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of the model.  [default: all]"),
    click.option(
        "--compress",
        type=click.Choice(["deflate", "zstd", "lzw", "jpeg", "webp", "none"]),
        default="deflate",
        show_default=True,
        help="Compression of a GeoTIFF.",
    ),
    click.option(
        "--blocksize",
        type=click.IntRange(16),
        default=512,
        show_default=True,
        help="Side of a GeoTIFF's blocks in pixels, a multiple of 16.",
    ),
    click.option("--worldfile", is_flag=True, help="Write the georeference of a .png or .jpg beside it."),
    click.option(
        "--max-memory",
        callback=parse_size,
        metavar="SIZE",
        help="Limit of the memory of this process, engine included: 800MB, 2GB.",
    ),
    click.option(
        "--restart",
        is_flag=True,
        help="Delete what an interrupted run has left in OUT.parts, instead of resuming it.",
    ),
    click.option(
        "--calibration",
        type=click.Choice(CALIBRATIONS),
        help="Calibration of a Sentinel-1 product (.SAFE, .zip), by its own table.  [default: sigma0]",
    ),
    click.option(
        "--geocode",
        metavar="CRS",
        help="Resample the scene to a map grid first (EPSG:32643, or auto-utm), by its control points or its CRS; "
        "without terrain correction.",
    ),
    click.option(
        "--resolution", type=float, help="Pixel size of that grid, in its unit.  [default: about the scene's own]"
    ),
    click.option(
        "--tiling",
        type=click.Choice(TILINGS),
        help="Resample the scene to the grid of web maps first (EPSG:3857, nearest zoom level), in blocks of "
        "256, which are their tiles.",
    ),
    click.option(
        "--bbox",
        nargs=4,
        type=float,
        metavar="W S E N",
        help="Cut the mosaic to a box, in longitude and latitude; only the windows that it needs are run.",
    ),
    click.option("--bbox-crs", metavar="CRS", help="CRS of the values of --bbox (EPSG:32643).  [default: EPSG:4326]"),
    click.option(
        "--aoi",
        metavar="FILE",
        help="Cut the mosaic to the polygons of a GeoJSON file, and mask what is outside of them.",
    ),
    click.option("--denoise", is_flag=True, help="Subtract the thermal noise of a Sentinel-1 product."),
)
"""Options of a run; for `translate_options`."""


def translate_options(
    *,
    units: str,
    geocode: str | None,
    resolution: float | None,
    tiling: Literal["web-mercator"] | None = None,
    calibration: str | None,
    denoise: bool,
    bbox: tuple[float, float, float, float] | None = None,
    bbox_crs: str | None = None,
    aoi: str | None = None,
    **choices: Any,
) -> TranslateOptions:
    """Make `TranslateOptions` of the values of `scene_options`, and of further fields."""
    from sar2optical.engines import EngineOptions
    from sar2optical.pipeline.options import TranslateOptions
    from sar2optical.scene.area import area_of
    from sar2optical.scene.bands import SceneOptions
    from sar2optical.scene.geocode.target import TILE, Target
    from sar2optical.scene.safe.product import ProductOptions

    signature = choices.pop("signature", None)
    if resolution is not None and not geocode:
        raise OptionWithoutEffect(
            f"--resolution {resolution:g} has no effect without --geocode: give both, or neither"
        )

    if tiling and geocode:
        raise OptionError(f"--tiling {tiling} has a grid of its own: leave out --geocode {geocode}")
    if tiling:
        choices["blocksize"] = TILE
    product = None
    if calibration or denoise:
        product = ProductOptions(calibration=calibration or "sigma0", denoise=denoise)  # type: ignore[arg-type]

    def take(**names: str) -> dict[str, Any]:
        return {field: choices.pop(name) for field, name in names.items()}

    return TranslateOptions(
        engine=EngineOptions(
            signature=ModelSignature.read(Path(signature)) if signature else None,
            **take(device="device", precision="precision", threads="threads", batch="batch_size"),
        ),
        output_bands=_output_bands(choices.pop("which", None), choices.pop("output_bands", None)),
        scene=SceneOptions(
            unit=None if units == "auto" else units,  # type: ignore[arg-type]
            **take(bands="bands", nodata="nodata", scale="scale"),
        ),
        geocode=Target(crs=geocode, resolution=resolution) if geocode else Target.of(tiling) if tiling else None,
        product=product,
        area=area_of(bbox, bbox_crs, aoi),
        **choices,
    )


def _output_bands(which: str | None, names: str | None) -> tuple[str, ...]:
    """Return the value of --bands or --output-bands; empty for red, green and blue."""
    if which and names:
        raise OptionError(f"--bands {which} and --output-bands {names} are both given: give one of them")
    if names:
        return tuple(name.strip() for name in names.split(","))
    return ("all",) if which == "all" else ()
