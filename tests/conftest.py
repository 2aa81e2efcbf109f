"""Tiny rasters and tiny models, made on the spot."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from affine import Affine
from onnx import TensorProto, helper
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from sar2optical.signature import METADATA_KEY, Bound, ModelSignature, Stretch

# One thread of PyTorch for each test process, and no busy waiting where a test asks for more: threads that wait for
# each other on tensors as small as these made some tests take four times as long. OpenMP reads both when PyTorch is
# imported, here and in child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

UTM = {"crs": "EPSG:32631", "transform": Affine(10, 0, 500_000, 0, -10, 4_800_000)}

BYTES = ModelSignature(
    name="tiny", bands=("VH",), unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),), window=256
)
"""The signature of tiny models, like the bundled generator's."""


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def _signals_on_the_usual_stack() -> None:
    """Handle signals on the thread's own stack.

    OpenVINO 2026.4.1 gives the thread that compiles a model a stack for signals, and may free it in another thread.
    The next signal then ended the whole test process.
    """
    if sys.platform == "linux":
        disabled = _SignalStack(None, 2, 0)  # SS_DISABLE
        ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process set, so that no test depends on the order of the files."""
    logger = logging.getLogger("sar2optical")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session", autouse=True)
def _choices_of_engines_are_not_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests measure out of the user's cache, and what the user measured out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAR2OPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_raster(tmp_path: Path) -> Callable[..., Path]:
    """Write an array (H, W) or (B, H, W) as a raster; returns its path."""

    def make(
        array: np.ndarray,
        name: str = "scene.tif",
        *,
        descriptions: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        mask: np.ndarray | None = None,
        scales: Sequence[float] | None = None,
        colorinterp: Sequence[ColorInterp] | None = None,
        palette: Mapping[int, tuple[int, int, int, int]] | None = None,
        **profile: Any,
    ) -> Path:
        bands = array if array.ndim == 3 else array[None]
        path = tmp_path / name
        drivers = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG"}
        settings = {"driver": drivers[path.suffix], "dtype": bands.dtype, "count": len(bands), **profile}
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **settings) as dst:
                if colorinterp:
                    dst.colorinterp = colorinterp
                dst.write(bands)
                for k, text in enumerate(descriptions, 1):
                    dst.set_band_description(k, text)
                if tags:
                    dst.update_tags(**tags)
                if palette:
                    dst.write_colormap(1, dict(palette))
                if scales:
                    dst.scales = scales
                if mask is not None:
                    dst.write_mask(mask)
        return path

    return make


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training draw no graphs of its losses: they take longer than the steps of a tiny run."""
    monkeypatch.setattr("sar2optical.training.plots.draw", lambda *_: [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A folder on a file system whose size the test sets, and may set again."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        again = ",remount" if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k{again}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a tmpfs is not allowed here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def speckle(shape: tuple[int, int], *, high: int = 250, seed: int = 0) -> np.ndarray:
    """Grey levels from 1 to `high`: none of them 0."""
    return np.random.default_rng(seed).integers(1, high + 1, shape).astype(np.uint8)


def save_onnx(
    path: Path, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], signature: ModelSignature | None
) -> Path:
    """Write a graph from `sar` to `optical` with a dynamic batch."""
    side = signature.window if signature else 256
    channels = signature.channels if signature else 1
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("sar", TensorProto.FLOAT, ["N", channels, side, side])],
        [helper.make_tensor_value_info("optical", TensorProto.FLOAT, ["N", 3, side, side])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if signature:
        helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def identity_model(tmp_path: Path) -> Path:
    """A model whose three colours are its input: the mosaic must be the scene."""
    return make_identity(tmp_path / "identity.onnx", BYTES)


def make_identity(path: Path, signature: ModelSignature | None) -> Path:
    """Write a model that repeats its first channel three times."""
    first = [helper.make_node("Slice", ["sar", "from", "to", "axis"], ["first"])]
    constants = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([1])}
    return save_onnx(
        path, [*first, helper.make_node("Concat", ["first"] * 3, ["optical"], axis=1)], constants, signature
    )


def make_local(path: Path) -> Path:
    """Write a model that adds to its input a slope across the window: neighbours disagree where they overlap."""
    slope = np.linspace(-0.2, 0.2, 256, dtype=np.float32).reshape(1, 1, 1, 256)
    nodes = [
        helper.make_node("Add", ["sar", "slope"], ["sum"]),
        helper.make_node("Concat", ["sum"] * 3, ["optical"], axis=1),
    ]
    return save_onnx(path, nodes, {"slope": slope}, BYTES)


def signature_of(**changes: Any) -> ModelSignature:
    """Give the tiny models' signature with some fields changed."""
    return replace(BYTES, **changes)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow generator with random weights that do something, saved as a checkpoint of ours."""
    import torch

    from sar2optical.models.checkpoint import save_generator
    from sar2optical.models.unet import GeneratorArguments, UNetGenerator

    torch.manual_seed(7)
    generator = UNetGenerator(GeneratorArguments(in_channels=1, base_channels=4))
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves them: neither 0 nor 1
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    path = tmp_path_factory.mktemp("models") / "generator.pth"
    save_generator(path, generator.eval(), BYTES)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path) -> Path:
    """The same generator as an ONNX file for windows of 256."""
    from export.build import ExportOptions, export

    return export(checkpoint, checkpoint.with_suffix(".onnx"), ExportOptions(windows=())).out


@pytest.fixture(scope="session")
def wide(checkpoint: Path) -> Path:
    """The same generator as an ONNX file for windows of 256 and 512."""
    from export.build import ExportOptions, export

    return export(checkpoint, checkpoint.with_suffix(".wide.onnx"), ExportOptions(windows=(256, 512))).out


def write_chips(folder: Path, count: int, *, side: int = 256, name: str = "{}.png", seed: int = 0) -> Path:
    """Write grey chips of land under speckle; returns the folder."""
    from export.verify import simulated_chips

    folder.mkdir(parents=True, exist_ok=True)
    chips = simulated_chips(signature_of(window=side), count=count, seed=100 + seed)
    for k, chip in enumerate(np.clip((chips + 1) * 127.5, 1, 255).astype(np.uint8)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            path = folder / name.format(k)
            with rasterio.open(path, "w", driver="PNG", height=side, width=side, count=1, dtype="uint8") as dst:
                dst.write(chip)
    return folder


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few chips as int8 may be calibrated on."""
    return write_chips(tmp_path_factory.mktemp("calibration"), 8)


@pytest.fixture(scope="session")
def quantized(exported: Path, calibration: Path) -> Path:
    """The generator of `exported` in int8."""
    from export.build import ExportOptions, export

    options = ExportOptions(precision="int8", calibration=calibration, method="percentile", subpixel="off")
    return export(exported, exported.with_suffix(".int8.onnx"), options).out
