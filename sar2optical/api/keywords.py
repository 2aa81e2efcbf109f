"""Turn keywords into option objects, and name keywords in errors instead of a command's options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sar2optical.engines import EngineOptions
from sar2optical.engines.registry import BACKENDS, DEVICES, PRECISIONS, resolve
from sar2optical.errors import OptionError, Sar2OpticalError
from sar2optical.scene.bands import SceneOptions
from sar2optical.scene.geocode.target import AUTO_UTM, Target
from sar2optical.scene.safe.calibrate import Calibration
from sar2optical.scene.safe.product import ProductOptions
from sar2optical.signature import UNITS, ModelSignature, Stretch, Unit

__all__ = [
    "Bound",
    "engine_options",
    "model_path",
    "naming_keywords",
    "output_bands_of",
    "product_options",
    "scene_options",
    "stretch_of",
    "target_of",
]

Bound = float | str
"""Bound of a stretch: a value, or a percentile such as "p99"."""

_RENAMED = {"band": "bands", "units": "unit", "batch-size": "batch"}
_FLAGS = ("overwrite", "restart", "denoise")
_WORDS = (*UNITS, *PRECISIONS, *DEVICES, *(b.name for b in BACKENDS), "sigma0", "gamma0", "beta0", AUTO_UTM, "auto")
_OPTION = re.compile(
    rf"--([a-z][a-z-]*[a-z])((?: (?:[A-Z]+\b|p?-?\d[\w.]*\b|[VH]{{2}}\b|(?:{'|'.join(map(re.escape, _WORDS))})\b))*)"
)


@contextmanager
def naming_keywords() -> Iterator[None]:
    """Raise the library's errors again, with `unit="db"` in place of `--units db`."""
    try:
        yield
    except Sar2OpticalError as error:
        text = _OPTION.sub(_keyword, str(error))
        if text == str(error):
            raise
        renamed = type(error)(text)
        for note in getattr(error, "__notes__", ()):
            renamed.add_note(note)
        raise renamed from error


def _keyword(match: re.Match[str]) -> str:
    option, values = match[1], match[2].split()
    name = _RENAMED.get(option, option.replace("-", "_"))
    if option in _FLAGS:
        return f"{name}=True"
    if not values:
        return name
    if option == "max-memory":
        return f"max_memory={values[0].removesuffix('MB')}_000_000"
    literals = [v if re.fullmatch(r"-?\d+(\.\d+)?|[A-Z]{3,}", v) and name != "bands" else f'"{v}"' for v in values]
    joined = ", ".join(literals)
    if name == "bands":
        return f"bands=[{joined}]"
    return f"{name}={joined}" if len(literals) == 1 else f"{name}=({joined})"


def scene_options(
    bands: Sequence[str | int] | str | int | None, unit: Unit | None, nodata: float | None, scale: float | None
) -> SceneOptions:
    """Check and collect what describes a scene."""
    if isinstance(bands, str | int | np.integer):
        bands = [bands]
    if unit is not None and unit not in UNITS:
        raise OptionError(f"unit is {unit!r}: give one of {', '.join(UNITS)}, or None")
    return SceneOptions(bands=tuple(map(str, () if bands is None else bands)), unit=unit, nodata=nodata, scale=scale)


def product_options(calibration: Calibration | None, denoise: bool) -> ProductOptions | None:
    """Collect how a Sentinel-1 product is calibrated; None if nothing is given."""
    if calibration is None and not denoise:
        return None
    return ProductOptions(calibration=calibration or "sigma0", denoise=denoise)


def engine_options(
    device: str,
    precision: str,
    threads: int | None,
    batch: int | None,
    signature: ModelSignature | str | Path | None = None,
) -> EngineOptions:
    """Check and collect how a model is run."""
    for name, value, known in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if value not in ("auto", *known):
            raise OptionError(f"{name} is {value!r}: give auto or one of {', '.join(known)}")
    if isinstance(signature, str | Path):
        signature = ModelSignature.read(Path(signature))
    return EngineOptions(
        device=device,
        precision=precision,  # type: ignore[arg-type]
        threads=threads,
        batch=batch,
        signature=signature,
    )


def output_bands_of(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the names of a mosaic's bands, given as a list or as "all"; empty for red, green and blue."""
    if names is None or names == "rgb":
        return ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def model_path(model: str | Path | None) -> Path | None:
    """Return the path of a model that is given as path or name; None for the bundled generator."""
    return None if model is None else resolve(model)


def stretch_of(stretch: Stretch | tuple[Bound, Bound] | None) -> Stretch | None:
    """Return a stretch that is given as two bounds."""
    if stretch is None or isinstance(stretch, Stretch):
        return stretch
    try:
        low, high = stretch
        return Stretch.parse(str(low), str(high))
    except (TypeError, ValueError) as error:
        raise OptionError(
            f'stretch is {stretch!r}: give two bounds, as values (0, 200) or percentiles ("p1", "p99")'
        ) from error


def target_of(geocode: str | Target | None, resolution: float | None) -> Target | None:
    """Return the map grid of a CRS and a resolution."""
    if isinstance(geocode, str):
        return Target(crs=geocode, resolution=resolution)
    if resolution is not None:
        raise OptionError(f"resolution is {resolution:g}, but geocode is {geocode}: give the CRS as geocode")
    return geocode
