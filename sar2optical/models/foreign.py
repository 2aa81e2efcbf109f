"""Checkpoints of other programs: find the weights and their prefix, and identify files that are not checkpoints."""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sar2optical.errors import CheckpointMismatch

__all__ = ["find_weights", "kind_of_file", "other_network", "without_wrappers"]

_log = logging.getLogger(__name__)

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DataParallel, torch.compile, or both
_DEEPEST = 4  # levels of nested dicts to search
_AVERAGES = re.compile(r"(?:^|[._])(?:ema|average|averaged)(?:[._]|$)")
_HEAD_BYTES = 1 << 24  # bytes of a pickle to examine
_SAFETENSORS_HEADER = 100_000_000  # bytes at most (the format's own limit)
_PICKLES = 4  # files of PyTorch before 1.6 are four pickles: two numbers, the system, the object
_COMMON = ("torch", "collections", "_codecs", "builtins", "__builtin__")  # modules that pickles of tensors refer to
_HDF5 = b"\x89HDF\r\n\x1a\n"

_OF_PIX2PIX = re.compile(r"(?:^|\.)model(?:\.\d+\.model)*\.\d+\.(?:weight|bias)$")
_UNET_FIRST = re.compile(r"(?:^|\.)model\.model\.0\.weight$")
_RESNET_FIRST = re.compile(r"(?:^|\.)model\.1\.weight$")
_LEVEL = re.compile(r"model\.(?:1|3)\.(?=model)")


def find_weights(content: Mapping[Any, Any], key: str, path: Path) -> dict[str, Tensor] | None:
    """Find the tensors of a network in the content of a file, and remove the prefix of their names.

    Logs where they were found and how many other entries were ignored.

    Parameters
    ----------
    content
        Content of the file: tensors by name, or dicts of them ("state_dict", "netG", "params_ema").
    key
        Name of one tensor of the network, without a prefix such as "module." or "generator.".
    path
        Path of the file, for messages.

    Returns
    -------
    dict or None
        Tensors by name; None if no dict has the key.

    Raises
    ------
    CheckpointMismatch
        If there are several networks, and not exactly one of them is a moving average.
    """
    found = [
        (where, name[: -len(key)], tensors)
        for where, tensors in _dicts(content)
        for name in tensors
        if isinstance(name, str) and (name == key or name.endswith(f".{key}"))
    ]
    averages = [one for one in found if _AVERAGES.search(".".join((*one[0], one[1])))]
    chosen = averages if len(found) > 1 and len(averages) == 1 else found
    if not chosen:
        return None
    if len(chosen) > 1:
        found_at = ", ".join(_location(where, prefix) for where, prefix, _ in chosen)
        raise CheckpointMismatch(
            f"{path}: holds {len(chosen)} generators ({found_at}): save the state_dict() of only one of them"
        )
    where, prefix, tensors = chosen[0]
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if str(name).startswith(prefix)}
    if where or prefix:
        others = sum(1 for _ in tensors) - len(own)
        ignored = f" ({others} other entries ignored)" if others else ""
        _log.info("%s: weights found under %s%s", path, _location(where, prefix), ignored)
    return own


def without_wrappers(state_dict: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the prefixes "module." and "_orig_mod." if all names have them, and log it."""
    prefixes = {match[0] if (match := _WRAPPERS.match(str(name))) else "" for name in state_dict}
    if len(prefixes) != 1 or prefixes == {""}:
        return dict(state_dict)
    (prefix,) = prefixes
    _log.info("%s: weights found under prefix %s", path, prefix)
    return {name.removeprefix(prefix): value for name, value in state_dict.items()}


def _location(where: tuple[str, ...], prefix: str) -> str:
    found = [*(["entry " + ".".join(where)] if where else []), *([f"prefix {prefix}"] if prefix else [])]
    return ", ".join(found) or "no prefix"


def _dicts(
    content: Mapping[Any, Any], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield a dict and all nested dicts that hold tensors, with the keys that lead to them."""
    if any(isinstance(value, Tensor) for value in content.values()):
        yield where, content
    if len(where) < _DEEPEST:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from _dicts(value, (*where, str(name)))


def other_network(content: Mapping[Any, Any]) -> str | None:
    """Identify a generator of pytorch-CycleGAN-and-pix2pix, with a remedy; None for other files.

    Its U-Net ends in a transposed convolution where ours has another level and a 3 x 3 head, so its weights cannot be
    converted. Names are from its models/networks.py (Zhu et al. 2017, Isola et al. 2017).
    """
    for _, tensors in _dicts(content):
        kept = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
        first = next((name for name in kept if _UNET_FIRST.search(name)), None)
        if first and kept[first].shape[2:] == (4, 4) and any(_LEVEL.search(name) for name in kept):
            depth = 1 + max(len(_LEVEL.findall(name[first.rindex("model.model") :])) for name in kept)
            return _export_it(f'the U-Net "unet_{2**depth}"', kept[first])
        first = next((name for name in kept if _RESNET_FIRST.search(name)), None)
        if first and kept[first].shape[2:] == (7, 7):
            blocks = len({match[1] for name in kept if (match := re.search(r"model\.(\d+)\.conv_block\.", name))})
            return _export_it(f'the ResNet "resnet_{blocks}blocks"', kept[first])
    return None


def _export_it(what: str, first: Tensor) -> str:
    width, channels = first.shape[:2]
    return (
        f"{what} of pytorch-CycleGAN-and-pix2pix (ngf {width}, {channels} input channels) has other layers than "
        "our generators: export it in that project with torch.onnx.export(netG.eval(), ...), then give "
        "sar2opt-export the .onnx file and --signature FILE"
    )


def kind_of_file(path: Path) -> str | None:
    """Identify a file that is not a checkpoint of plain tensors, with a remedy; None if its type is unknown.

    No code from the file is executed.
    """
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_HDF5):
        return "an HDF5 file, perhaps from Keras: convert the model to ONNX, and give the .onnx file"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER:
        return "a safetensors file: convert it with torch.save(safetensors.torch.load_file(...), ...)"
    return _kind_of_pickle(head) if head.startswith(b"\x80") else None


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("data.pkl")), None)
            if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
                return "a TorchScript file: save its state_dict(): torch.save(torch.jit.load(...).state_dict(), ...)"
            if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names):
                return (
                    "a torch.export program: save its state_dict: torch.save(torch.export.load(...).state_dict, ...)"
                )
            if pickled is None:
                return None
            with archive.open(pickled) as file:
                return _kind_of_pickle(file.read(_HEAD_BYTES))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        return None


def _kind_of_pickle(content: bytes) -> str | None:
    """Identify a pickle of a whole model by its references to classes of torch.nn."""
    classes = list(_classes(content))
    own = next((name for name in classes if name.partition(".")[0] not in _COMMON), None)
    if any(name.startswith("torch.nn.modules.") for name in classes):
        what = own or classes[0]
        return (
            f"a pickle of a whole model ({what}): in the program that made it, save only the generator's "
            "state_dict(): torch.save(model.state_dict(), ...)"
        )
    return None


def _classes(content: bytes) -> Iterator[str]:
    """Yield the classes and functions that a pickle refers to, without loading it."""
    file = io.BytesIO(content)
    try:
        for _ in range(_PICKLES):
            texts: list[str] = []
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    yield ".".join(str(argument).split(" "))
                elif operation.name == "STACK_GLOBAL" and len(texts) >= 2:
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, IndexError, UnicodeDecodeError, pickle.UnpicklingError):
        return  # damaged or truncated: the names so far are enough
