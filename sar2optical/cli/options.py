"""What every command that translates scenes lets people choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import engine_options, options, parse_size, parse_stretch
from sar2optical.errors import OptionWithoutEffect
from sar2optical.signature import UNITS
from sar2optical.tiling.windows import DEFAULT_OVERLAP

if TYPE_CHECKING:
    from sar2optical.pipeline.options import TranslateOptions

CALIBRATIONS = ("sigma0", "gamma0", "beta0", "dn")

scene_options = options(
    click.option(
        "--model",
        help="Generator: a file (.onnx, .pth), or a published one by name (pix2pix_gen_180), which is fetched once; "
        "the bundled one where not given.",
    ),
    engine_options,
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
        help="What the scene's values are; auto tells from the file, or refuses.",
    ),
    click.option(
        "--scale",
        type=float,
        help="Factor from stored values to their unit (0.01 for 100 x dB); the file's own where not given.",
    ),
    click.option(
        "--stretch",
        nargs=2,
        callback=parse_stretch,
        metavar="LOW HIGH",
        help="Values, or percentiles of the scene (p1 p99); the model's own where not given.",
    ),
    click.option("--nodata", type=float, help="Stored value that means nothing, beside what the file declares."),
    click.option(
        "--overlap",
        type=click.IntRange(0),
        default=DEFAULT_OVERLAP,
        show_default=True,
        help="Pixels that neighbours share.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Windows per run of the model.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of the model; all where not given."),
    click.option(
        "--compress",
        type=click.Choice(["deflate", "zstd", "lzw", "jpeg", "none"]),
        default="deflate",
        show_default=True,
        help="Of a GeoTIFF.",
    ),
    click.option(
        "--max-memory",
        callback=parse_size,
        metavar="SIZE",
        help="Bytes that this process may take, engine included: 800MB, 2GB.",
    ),
    click.option("--restart", is_flag=True, help="Throw away what an interrupted run has left in OUT.parts."),
    click.option(
        "--calibration",
        type=click.Choice(CALIBRATIONS),
        help="Of a Sentinel-1 product (.SAFE, .zip), by its own table; sigma0 where not given.",
    ),
    click.option(
        "--geocode",
        metavar="CRS",
        help="Bring the scene to a map first (EPSG:32643, or auto-utm), by its control points or its own CRS; "
        "no terrain correction.",
    ),
    click.option("--resolution", type=float, help="Of that map, in its unit; about the scene's own where not given."),
    click.option("--denoise", is_flag=True, help="Subtract a product's thermal noise."),
)
"""How scenes become mosaics; for `translate_options`."""


def translate_options(
    *,
    units: str,
    geocode: str | None,
    resolution: float | None,
    calibration: str | None,
    denoise: bool,
    **choices: Any,
) -> TranslateOptions:
    """Make options of what `scene_options` parsed; whatever else is given goes to `TranslateOptions`."""
    from sar2optical.engines import EngineOptions
    from sar2optical.pipeline.options import TranslateOptions
    from sar2optical.scene.bands import SceneOptions
    from sar2optical.scene.geocode.target import Target
    from sar2optical.scene.safe.product import ProductOptions

    if resolution is not None and not geocode:
        raise OptionWithoutEffect(f"resolution is {resolution:g}, of no map: give --geocode with it")

    product = None
    if calibration or denoise:
        product = ProductOptions(calibration=calibration or "sigma0", denoise=denoise)  # type: ignore[arg-type]

    def take(**names: str) -> dict[str, Any]:
        return {field: choices.pop(name) for field, name in names.items()}

    return TranslateOptions(
        engine=EngineOptions(**take(device="device", precision="precision", threads="threads", batch="batch_size")),
        scene=SceneOptions(
            unit=None if units == "auto" else units,  # type: ignore[arg-type]
            **take(bands="bands", nodata="nodata", scale="scale"),
        ),
        geocode=Target(crs=geocode, resolution=resolution) if geocode else None,
        product=product,
        **choices,
    )
