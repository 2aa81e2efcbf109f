"""Describe an exported generator as a STAC Item of the machine learning model extension (MLM)."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from export.options import Exported
from sar2optical import __version__
from sar2optical._utils.files import write_output
from sar2optical.errors import BackendNotInstalled
from sar2optical.mosaic.tags import NOTE
from sar2optical.pipeline.provenance import hash_of
from sar2optical.signature import INPUT, OUTPUT, ModelSignature, Stretch, alternatives, listed

__all__ = ["describe", "write_description"]

_SHA256 = "1220"
"""Multihash prefix of a SHA-256 of 32 bytes (https://multiformats.io/multihash)."""

_EXPRESSION = "python"
"""Format of expressions: Python with numpy as `np`; the band is `x`."""


def write_description(path: Path, made: Exported) -> None:
    """Write the Item of an exported file, see `describe`.

    Raises
    ------
    BackendNotInstalled
        pystac is not installed, or older than 1.15.
    OutputUnwritable
        The folder is not writable.
    """
    write_output(path, (json.dumps(describe(path, made), indent=1) + "\n").encode())


def describe(path: Path, made: Exported) -> dict[str, Any]:
    """Return the Item of an exported file (STAC 1.1, MLM 1.4, file 2.1): input, scaling, output, sizes and hash.

    Parameters
    ----------
    path
        Path of the Item; the file's address is relative to it.
    made
        Result of the export.

    Raises
    ------
    BackendNotInstalled
        pystac is not installed, or older than 1.15.
    """
    pystac, mlm, file = _extensions()
    signature, size = made.signature, made.out.stat().st_size
    item = pystac.Item(
        id=made.out.stem,
        geometry=None,
        bbox=None,
        datetime=datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC),
        properties={
            "title": f"{signature.name}: Sentinel-1 SAR to RGB",
            "description": f"Generator of pix2pix; its image is {NOTE}.",
            "bands": [{"name": name, "description": listed(band)} for name, band in _bands(signature)],
            "sar2optical:version": __version__,
            "sar2optical:signature": json.loads(signature.to_json()),
            "sar2optical:precision": made.precision,
            "sar2optical:opset": made.opset,
        },
    )
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        name=signature.name,
        architecture="pix2pix U-Net generator",
        tasks=[mlm.TaskType.GENERATIVE],
        framework="ONNX",
        framework_version=onnx.__version__,
        input=[_input(mlm, signature)],
        output=[_output(mlm, signature)],
    )
    asset = pystac.Asset(
        href=Path(os.path.relpath(made.out, path.parent)).as_posix(),
        media_type="application/octet-stream; framework=onnx",
        roles=["mlm:model", "mlm:weights"],
        # The schema of STAC 1.1.0 takes bands of an Item only where an asset has bands as well.
        extra_fields={"mlm:artifact_type": "onnx", "bands": item.properties["bands"]},
    )
    item.add_asset("model", asset)
    file.FileExtension.ext(asset, add_if_missing=True).apply(size=size, checksum=_SHA256 + hash_of(made.out))
    found: dict[str, Any] = item.to_dict(include_self_link=False)
    return found


def _bands(signature: ModelSignature) -> list[tuple[str, str]]:
    """Return the preferred polarisation of each input band, and the band."""
    return [(alternatives(band)[0], band) for band in signature.bands]


def _input(mlm: Any, signature: ModelSignature) -> Any:
    side = -1 if signature.windows else signature.window
    sizes = ", ".join(map(str, signature.sides))
    spacing = f"; {signature.pixel_size:g} m a pixel" if signature.pixel_size else ""
    scalings = [
        mlm.ValueScaling.create(mlm.ValueScalingType.PROCESSING, format=_EXPRESSION, expression=_scaling(stretch))
        for stretch in signature.stretch
        if isinstance(stretch, Stretch)  # all, in what is exported
    ]
    taken = mlm.ModelInput.create(
        name=INPUT,
        bands=[name for name, _ in _bands(signature)],
        input=mlm.InputStructure.create(
            shape=[-1, signature.channels, side, side],
            dim_order=["batch", "bands", "height", "width"],
            data_type="float32",
        ),
        description=(
            f"Backscatter in {signature.unit}, {'; '.join(listed(band) for band in signature.bands)}; "
            f"windows of {sizes} pixels{spacing}. p1 and p99 are percentiles of the whole scene."
        ),
    )
    # pystac 1.15 sets one object, where the extension has one for each band.
    taken.properties["value_scaling"] = [scaling.to_dict() for scaling in scalings]
    return taken


def _scaling(stretch: Stretch) -> str:
    low, high = stretch.low, stretch.high
    return f"np.clip(2 * (x - ({low})) / (({high}) - ({low})) - 1, -1, 1)"


def _output(mlm: Any, signature: ModelSignature) -> Any:
    side = -1 if signature.windows else signature.window
    return mlm.ModelOutput.create(
        name=OUTPUT,
        tasks=[mlm.TaskType.GENERATIVE],
        result=mlm.ResultStructure.create(
            shape=[-1, 3, side, side], dim_order=["batch", "bands", "height", "width"], data_type="float32"
        ),
        description=f"Red, green and blue in [-1, 1]; {NOTE}.",
        post_processing_function=mlm.ProcessingExpression.create(
            format=_EXPRESSION, expression="np.clip(x * 127.5 + 128, 0, 255).astype(np.uint8)"
        ),
    )


def _extensions() -> tuple[Any, Any, Any]:
    try:
        import pystac
        from pystac.extensions import file, mlm
    except ImportError as error:
        raise BackendNotInstalled("--stac needs pystac 1.15: pip install 'sar2optical[export]'") from error
    return pystac, mlm, file
