"""Read and write generator checkpoints: our own, and bare state dicts that pix2pix projects publish.

Our checkpoints hold weights, the arguments that rebuild the model, and the signature. The arguments of a bare state
dict follow from the shapes of its tensors; it may be an entry of the file, and its names may have a prefix, see
`sar2optical.models.foreign`. Both load strictly: no missing keys, no unknown keys, no other shapes.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sar2optical._utils.files import write_output
from sar2optical.errors import CheckpointMismatch, ModelUnreadable, SignatureError
from sar2optical.models.foreign import find_weights, kind_of_file, other_network, without_wrappers
from sar2optical.models.generator import Generator, build_generator
from sar2optical.models.unet import GeneratorArguments, Upsampling
from sar2optical.signature import Bound, ModelSignature, Stretch

__all__ = [
    "FORMAT",
    "TRAINING_FORMAT",
    "bare_state_dict",
    "load_generator",
    "read_arguments",
    "read_tensors",
    "save_atomically",
    "save_generator",
    "seed_signature",
]

FORMAT = "sar2optical.generator"
"""Entry "format" of a generator checkpoint."""
TRAINING_FORMAT = "sar2optical.training"
"""Entry "format" of the state of a training run."""

_FIRST = "encoder.enc1.conv_block.0.weight"
_UPSAMPLED = "decoder.dec1.conv_block.0.1.weight"
_HEAD = "head.0.weight"
_MAGIC = (b"PK\x03\x04", b"\x80")  # a zip, as torch.save writes, or a bare pickle
_RGB = 3
_SHOWN = 4  # keys listed in a message; more are counted


def seed_signature(name: str, channels: int) -> ModelSignature:
    """Make the signature of a generator trained on SEN1-2 chips, for a bare state dict without one.

    SEN1-2 chips are VV in dB, stretched per image between about the 1st and 99th percentiles (measured on summer and
    fall chips), and repeated over the input channels.
    """
    stretch = Stretch(Bound(1, True), Bound(99, True))
    return ModelSignature(name=name, bands=("VV",), unit="db", stretch=(stretch,), channels=channels)


def read_arguments(state_dict: Mapping[str, Tensor], *, upsampling: Upsampling = "nearest") -> GeneratorArguments:
    """Derive a generator's arguments from its tensors.

    Parameters
    ----------
    state_dict
        Tensors by parameter name.
    upsampling
        Mode to assume if the decoder upsamples; the tensors are the same for all modes.

    Raises
    ------
    CheckpointMismatch
        If the tensors that determine the arguments are missing.
    """
    try:
        first, head = state_dict[_FIRST], state_dict[_HEAD]
        base_channels, in_channels = first.shape[:2]
        return GeneratorArguments(
            in_channels=in_channels,
            out_channels=head.shape[0],
            base_channels=base_channels,
            upsampling=upsampling if _UPSAMPLED in state_dict else None,
        )
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointMismatch(
            f"not a generator: expected keys {_FIRST} and {_HEAD}, found {_some(list(state_dict))}: "
            "give a pix2pix generator's checkpoint"
        ) from error


def load_generator(
    path: Path, *, upsampling: Upsampling | None = None, signature: ModelSignature | None = None
) -> tuple[Generator, ModelSignature]:
    """Load a generator in eval mode, with float32 weights on the CPU.

    Parameters
    ----------
    path
        Our checkpoint, or a bare state dict: by itself, as an entry of a dict ("state_dict", "netG", "ema"), or with
        a prefix to its names ("module.", "_orig_mod.", "generator."). Of several, the moving average is taken.
    upsampling
        Mode of a bare state dict whose decoder upsamples; None means nearest. Our checkpoints contain it.
    signature
        Signature to use instead of the one in the file, or the one assumed for a bare state dict.

    Raises
    ------
    ModelUnreadable
        If the file is missing, corrupt, or holds more than plain tensors.
    CheckpointMismatch
        If keys or shapes are not the generator's; the message lists missing and unknown keys.
    SignatureError
        If the signature does not fit, or has another version.
    """
    content = read_tensors(path)
    if content.get("format") == TRAINING_FORMAT:
        raise CheckpointMismatch(
            f"{path}: the state of a training run, not a generator: give generator.pth in the same folder"
        )
    if content.get("format") == FORMAT:
        arguments, stored, state_dict = _own(content, path)
    else:
        state_dict = _weights(content, path)
        try:
            arguments = read_arguments(state_dict, upsampling=upsampling or "nearest")
        except CheckpointMismatch as error:
            raise CheckpointMismatch(f"{path}: {error}") from error
        if signature is None and arguments.in_channels not in (1, 3):
            raise SignatureError(
                f"{path}: takes {arguments.in_channels} channels, but a bare state dict does not record their bands: "
                "save it with its signature (sar2optical.models.checkpoint.save_generator)"
            )
        stored = seed_signature(path.stem, arguments.in_channels)
    generator = build_generator(arguments)
    _load_strictly(generator, state_dict, path)
    if arguments.out_channels != _RGB:
        raise CheckpointMismatch(
            f"{path}: the generator has {arguments.out_channels} output channels: give a generator with 3 (RGB)"
        )
    chosen = signature or stored
    if chosen.channels != arguments.in_channels:
        raise SignatureError(
            f"{path}: the signature has {chosen.channels} channels, the generator {arguments.in_channels}: "
            "give a signature with the generator's channels"
        )
    return generator.eval(), chosen


def save_generator(
    path: Path,
    generator: Generator,
    signature: ModelSignature,
    *,
    half: bool = False,
    notes: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write a checkpoint atomically.

    Parameters
    ----------
    path
        Path of the file; replaced if it exists.
    generator, signature
        Generator and its signature.
    half
        Store floating-point weights as float16: half the size; the rounded weights become the reference.
    notes
        Plain values to store for information, such as steps and scores.

    Raises
    ------
    OutputUnwritable
        If the file cannot be written.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        key: value.detach().cpu().to(dtype) if value.is_floating_point() else value.detach().cpu()
        for key, value in generator.state_dict().items()
    }
    content = {
        "format": FORMAT,
        "arguments": generator.arguments.to_dict(),
        "signature": replace(signature, channels=generator.arguments.in_channels).to_json(),
        "notes": dict(notes or {}),
        "state_dict": tensors,
    }
    save_atomically(path, content)


def save_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Save with `torch.save`, replacing `path` atomically.

    Raises
    ------
    OutputUnwritable
        If the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_output(path, buffer.getvalue())


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values, without executing code from it.

    Raises
    ------
    ModelUnreadable
        If the file is missing, corrupt, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old pickles; errors come as exceptions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelUnreadable(f"{path}: no such file: check the path") from error
    except IsADirectoryError as error:
        raise ModelUnreadable(f"{path}: is a folder: give the path of the checkpoint file") from error
    except PermissionError as error:
        raise ModelUnreadable(f"{path}: permission denied: check the file's permissions") from error
    except pickle.UnpicklingError as error:
        if kind := kind_of_file(path):
            raise ModelUnreadable(f"{path}: {kind}") from error
        with path.open("rb") as file:
            if not file.read(4).startswith(_MAGIC):
                raise ModelUnreadable(
                    f"{path}: not a checkpoint: check the path, or download the file again"
                ) from error
        raise ModelUnreadable(
            f"{path}: contains objects other than tensors: save only the generator's state_dict()"
        ) from error
    except Exception as error:  # a corrupt file raises one of many types
        if kind := kind_of_file(path):
            raise ModelUnreadable(f"{path}: {kind}") from error
        raise ModelUnreadable(
            f"{path}: corrupt, or not a checkpoint ({type(error).__name__}): download the file again"
        ) from error
    if not isinstance(content, dict):
        raise ModelUnreadable(
            f"{path}: holds a {type(content).__name__}, not a state dict: save the generator's state_dict()"
        )
    return content


def bare_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a bare state dict of any network.

    Raises
    ------
    ModelUnreadable, CheckpointMismatch
        If the file is missing, corrupt, or holds anything but tensors.
    """
    return without_wrappers(_bare(read_tensors(path), path), path)


def _weights(content: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """Find a generator's weights; refuse files of other known networks with an explanation."""
    found = find_weights(content, _FIRST, path)
    if found is not None:
        return _bare(found, path)
    if other := other_network(content):
        raise CheckpointMismatch(f"{path}: {other}")
    return _bare(content, path)


def _own(content: dict[str, Any], path: Path) -> tuple[GeneratorArguments, ModelSignature, dict[str, Tensor]]:
    try:
        arguments = GeneratorArguments(**content["arguments"])
        text, state_dict = content["signature"], without_wrappers(_bare(content["state_dict"], path), path)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnreadable(f"{path}: incomplete checkpoint ({error}): save it again") from error
    return arguments, ModelSignature.from_json(text, source=str(path)), state_dict


def _bare(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointMismatch(
            f"{path}: the weights are a {type(content).__name__}, not a state dict: save it again"
        )
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor) or value.is_sparse]
    strangers += [key for key in content if not isinstance(key, str) and key not in strangers]
    if strangers or not content:
        raise CheckpointMismatch(
            f"{path}: not a state dict of tensors (holds {_some(strangers)}): save only the generator's state_dict()"
        )
    return content


def _load_strictly(generator: Generator, state_dict: Mapping[str, Tensor], path: Path) -> None:
    expected = generator.state_dict()
    missing = [key for key in expected if key not in state_dict]
    unknown = [key for key in state_dict if key not in expected]
    if missing or unknown:
        raise CheckpointMismatch(
            f"{path}: keys do not fit the generator (missing: {_some(missing)}; unknown: {_some(unknown)}): "
            "give a pix2pix generator's checkpoint"
        )
    for key, tensor in expected.items():
        if state_dict[key].shape != tensor.shape:
            raise CheckpointMismatch(
                f"{path}: {key} has shape {tuple(state_dict[key].shape)}, expected {tuple(tensor.shape)} for this "
                "width: give a pix2pix generator's checkpoint"
            )
    generator.load_state_dict(dict(state_dict), strict=True)


def _some(keys: list[str]) -> str:
    if not keys:
        return "none"
    more = len(keys) - _SHOWN
    return ", ".join(map(str, keys[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
