"""Generator checkpoints: ours, and the bare state dicts that pix2pix projects publish.

Ours hold weights, the arguments that rebuild the model, and the signature. A bare state dict has its
shape read off the tensors; it may lie in an entry of the file, and its names may have a prefix, see
`sar2optical.models.foreign`. Both load strictly: no key missing, none unknown, no other shape.
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

FORMAT = "sar2optical.generator"
TRAINING_FORMAT = "sar2optical.training"
"""What our files call themselves: a generator, or all that a training run goes on from."""

_FIRST = "encoder.enc1.conv_block.0.weight"
_UPSAMPLED = "decoder.dec1.conv_block.0.1.weight"
_HEAD = "head.0.weight"
_MAGIC = (b"PK\x03\x04", b"\x80")  # a zip, as torch.save writes, or a bare pickle
_RGB = 3
_SHOWN = 4  # keys named in a message before it only counts


def seed_signature(name: str, channels: int) -> ModelSignature:
    """Give the signature of a generator trained on SEN1-2 chips, which its bare state dict cannot tell.

    Those chips are VV in dB, stretched per image by about the 1st and 99th percentiles (measured on
    summer and fall chips), and repeated over the input channels.
    """
    stretch = Stretch(Bound(1, True), Bound(99, True))
    return ModelSignature(name=name, bands=("VV",), unit="db", stretch=(stretch,), channels=channels)


def read_arguments(state_dict: Mapping[str, Tensor], *, upsampling: Upsampling = "nearest") -> GeneratorArguments:
    """Read a generator's arguments off its tensors.

    Parameters
    ----------
    state_dict
        Parameter names to tensors.
    upsampling
        Mode to assume where the decoder upsamples: the modes differ in no tensor.

    Raises
    ------
    CheckpointMismatch
        Where the tensors that tell are absent.
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
            f"no generator: needs {_FIRST} and {_HEAD}, has {_some(list(state_dict))}"
        ) from error


def load_generator(
    path: Path, *, upsampling: Upsampling | None = None, signature: ModelSignature | None = None
) -> tuple[Generator, ModelSignature]:
    """Load a generator in eval mode, weights in float32 on the CPU.

    Parameters
    ----------
    path
        A checkpoint of ours; or a bare state dict, by itself, in an entry of a dict ("state_dict", "netG", "ema"), or
        with a prefix to its names ("module.", "_orig_mod.", "generator."). Of several, the moving average is taken.
    upsampling
        Mode of a bare state dict whose decoder upsamples; nearest where not given. Our own checkpoints
        know theirs.
    signature
        Replaces the one that the file has, or that a bare state dict is assumed to have.

    Raises
    ------
    ModelUnreadable
        Where the file is missing, corrupt, or needs more than plain tensors to load.
    CheckpointMismatch
        Where keys or shapes are not the generator's; missing and unknown ones are named.
    SignatureError
        Where the signature is of another version.
    """
    content = read_tensors(path)
    if content.get("format") == TRAINING_FORMAT:
        raise CheckpointMismatch(f"{path}: the state of a training run: give generator.pth, which lies beside it")
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
                f"{path}: takes {arguments.in_channels} channels, and a bare state dict does not say of which bands: "
                "save it with its signature (sar2optical.models.checkpoint.save_generator)"
            )
        stored = seed_signature(path.stem, arguments.in_channels)
    generator = build_generator(arguments)
    _load_strictly(generator, state_dict, path)
    if arguments.out_channels != _RGB:
        raise CheckpointMismatch(f"{path}: gives {arguments.out_channels} channels: give an RGB generator")
    chosen = signature or stored
    if chosen.channels != arguments.in_channels:
        raise SignatureError(
            f"{path}: signature of {chosen.channels} channels, generator of {arguments.in_channels}: "
            "give a signature that fits"
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
    """Write a checkpoint, atomically.

    Parameters
    ----------
    path
        Replaced when there.
    generator, signature
        What is saved.
    half
        Store floating weights as float16: half the file, and a rounding that becomes the reference.
    notes
        Plain values for whoever opens the file: steps, scores.

    Raises
    ------
    OutputUnwritable
        Where the file cannot be written.
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
    """`torch.save`, such that `path` is the old file or the new one, never a part.

    Raises
    ------
    OutputUnwritable
        Where the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_output(path, buffer.getvalue())


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values; nothing in it is executed.

    Raises
    ------
    ModelUnreadable
        Where the file is missing, corrupt, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on old pickles: what matters comes as an exception
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelUnreadable(f"{path}: no such file: check the path") from error
    except IsADirectoryError as error:
        raise ModelUnreadable(f"{path}: is a folder: give the checkpoint's file") from error
    except PermissionError as error:
        raise ModelUnreadable(f"{path}: may not be read: check its permissions") from error
    except pickle.UnpicklingError as error:
        if kind := kind_of_file(path):
            raise ModelUnreadable(f"{path}: {kind}") from error
        with path.open("rb") as file:
            if not file.read(4).startswith(_MAGIC):
                raise ModelUnreadable(f"{path}: no checkpoint, but something else: fetch it again") from error
        raise ModelUnreadable(
            f"{path}: not a file of plain tensors: save the generator's state_dict() by itself"
        ) from error
    except Exception as error:  # a corrupt file surfaces as any of a dozen types
        if kind := kind_of_file(path):
            raise ModelUnreadable(f"{path}: {kind}") from error
        raise ModelUnreadable(
            f"{path}: corrupt, or no checkpoint ({type(error).__name__}): fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelUnreadable(
            f"{path}: holds a {type(content).__name__}, not a state dict: save the generator's state_dict()"
        )
    return content


def bare_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a bare state dict, whichever network's.

    Raises
    ------
    ModelUnreadable, CheckpointMismatch
        Where the file is missing, corrupt, or holds anything but tensors.
    """
    return without_wrappers(_bare(read_tensors(path), path), path)


def _weights(content: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """Find a generator's weights; say what else the file holds where there are none."""
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
        raise ModelUnreadable(f"{path}: a checkpoint with parts missing ({error}): save it again") from error
    return arguments, ModelSignature.from_json(text, source=str(path)), state_dict


def _bare(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointMismatch(f"{path}: weights are a {type(content).__name__}, no state dict: save it again")
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor) or value.is_sparse]
    strangers += [key for key in content if not isinstance(key, str) and key not in strangers]
    if strangers or not content:
        raise CheckpointMismatch(
            f"{path}: not a state dict of tensors (holds {_some(strangers)}): "
            "save the generator's state_dict() by itself"
        )
    return content


def _load_strictly(generator: Generator, state_dict: Mapping[str, Tensor], path: Path) -> None:
    expected = generator.state_dict()
    missing = [key for key in expected if key not in state_dict]
    unknown = [key for key in state_dict if key not in expected]
    if missing or unknown:
        raise CheckpointMismatch(
            f"{path}: not this generator: missing {_some(missing)}; unknown {_some(unknown)}: "
            "give a pix2pix generator's checkpoint"
        )
    for key, tensor in expected.items():
        if state_dict[key].shape != tensor.shape:
            raise CheckpointMismatch(
                f"{path}: {key} is {tuple(state_dict[key].shape)}, a generator of this width has "
                f"{tuple(tensor.shape)}: give a pix2pix generator's checkpoint"
            )
    generator.load_state_dict(dict(state_dict), strict=True)


def _some(keys: list[str]) -> str:
    if not keys:
        return "none"
    more = len(keys) - _SHOWN
    return ", ".join(map(str, keys[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
