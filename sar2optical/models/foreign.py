"""Files of other programs: where the weights lie in a checkpoint, under which prefix, and what other files are."""

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

_log = logging.getLogger(__name__)

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # of DataParallel and torch.compile, also both
_DEEPEST = 4  # dicts in dicts that are searched
_AVERAGES = re.compile(r"(?:^|[._])(?:ema|average|averaged)(?:[._]|$)")
_HEAD_BYTES = 1 << 24  # of a pickle that is looked through
_SAFETENSORS_HEADER = 100_000_000  # bytes at most (the format's own limit)
_PICKLES = 4  # one after another in files of PyTorch before 1.6: two numbers, the system, the object
_COMMON = ("torch", "collections", "_codecs", "builtins", "__builtin__")  # modules that pickles of tensors refer to
_HDF5 = b"\x89HDF\r\n\x1a\n"

_OF_PIX2PIX = re.compile(r"(?:^|\.)model(?:\.\d+\.model)*\.\d+\.(?:weight|bias)$")
_UNET_FIRST = re.compile(r"(?:^|\.)model\.model\.0\.weight$")
_RESNET_FIRST = re.compile(r"(?:^|\.)model\.1\.weight$")
_LEVEL = re.compile(r"model\.(?:1|3)\.(?=model)")


def find_weights(content: Mapping[Any, Any], key: str, path: Path) -> dict[str, Tensor] | None:
    """Find the tensors of a network in what a file holds, and take the prefix off their names.

    A log line says where they were found, and what was left aside.

    Parameters
    ----------
    content
        What the file holds: tensors by name, or dicts that hold such ("state_dict", "netG", "params_ema").
    key
        Name of one tensor of the network; in the file, a prefix may precede it ("module.", "generator.").
    path
        For messages.

    Returns
    -------
    dict or None
        Tensors by name; None where no dict has the key.

    Raises
    ------
    CheckpointMismatch
        Where there are several, and none or more than one of them is a moving average.
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
        places = ", ".join(_place(where, prefix) for where, prefix, _ in chosen)
        raise CheckpointMismatch(
            f"{path}: holds {len(chosen)} generators ({places}): save the state_dict() of one of them by itself"
        )
    where, prefix, tensors = chosen[0]
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if str(name).startswith(prefix)}
    if where or prefix:
        aside = sum(1 for _ in tensors) - len(own)
        rest = f", {aside} other entries beside them are left aside" if aside else ""
        _log.info("%s: weights under %s%s", path, _place(where, prefix), rest)
    return own


def without_wrappers(state_dict: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take "module." and "_orig_mod." off the names, where all have them; a log line says so."""
    prefixes = {match[0] if (match := _WRAPPERS.match(str(name))) else "" for name in state_dict}
    if len(prefixes) != 1 or prefixes == {""}:
        return dict(state_dict)
    (prefix,) = prefixes
    _log.info("%s: weights under prefix %s", path, prefix)
    return {name.removeprefix(prefix): value for name, value in state_dict.items()}


def _place(where: tuple[str, ...], prefix: str) -> str:
    parts = [*(["entry " + ".".join(where)] if where else []), *([f"prefix {prefix}"] if prefix else [])]
    return ", ".join(parts) or "no prefix"


def _dicts(
    content: Mapping[Any, Any], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Give a dict and all dicts in it that hold tensors, with the keys that lead to them."""
    if any(isinstance(value, Tensor) for value in content.values()):
        yield where, content
    if len(where) < _DEEPEST:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from _dicts(value, (*where, str(name)))


def other_network(content: Mapping[Any, Any]) -> str | None:
    """Say which generator of pytorch-CycleGAN-and-pix2pix a file holds, and what to do; None for others.

    Its U-Net ends in a transposed convolution where ours has another level and a 3 x 3 head, so that no weights of
    ours would give its images. Names: models/networks.py there (Zhu et al. 2017, Isola et al. 2017).
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
        f"{what} of pytorch-CycleGAN-and-pix2pix (ngf {width}, {channels} channels in), whose layers are not those "
        "of our generators: export it there with torch.onnx.export(netG.eval(), ...), then give sar2opt-export the "
        ".onnx file and --signature FILE"
    )


def kind_of_file(path: Path) -> str | None:
    """Say what a file is that is no checkpoint of plain tensors, and what to do; None where nothing tells.

    Nothing in the file is executed.
    """
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_HDF5):
        return "an HDF5 file, of Keras perhaps: convert the model to ONNX, and give the .onnx file"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER:
        return "a safetensors file: torch.save(safetensors.torch.load_file(...)) makes a checkpoint of it"
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
    """Tell a whole model from other objects: one refers to classes of torch.nn."""
    classes = list(_classes(content))
    own = next((name for name in classes if name.partition(".")[0] not in _COMMON), None)
    if any(name.startswith("torch.nn.modules.") for name in classes):
        what = own or classes[0]
        return (
            f"a pickle of a whole model ({what}): in the program that made it, save the generator's state_dict() by "
            "itself: torch.save(model.state_dict(), ...)"
        )
    return None


def _classes(content: bytes) -> Iterator[str]:
    """Give the classes and functions that a pickle refers to, without loading it."""
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
        return  # damaged, or cut: what was seen so far tells enough
