"""Read settings from a YAML file: the re-implemented system's `config.yaml`, or fields of our settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sar2optical import __version__
from sar2optical.errors import OptionError
from sar2optical.signature import ModelSignature
from sar2optical.training.config import SEED_RECIPE, RunOptions, TrainConfig

__all__ = ["FileSettings", "read_settings", "settings_record"]


@dataclass(frozen=True)
class FileSettings:
    """Settings of a configuration file."""

    config: dict[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of `RunOptions`."""
    generator: Path | None = None
    """File with the generator's initial weights."""
    discriminator: Path | None = None
    """File with the discriminator's initial weights."""
    channels: int | None = None
    """Input channels of the generator."""
    split_mode: str | None = None
    """How pairs are split: "random", "split" (by `split_file`), or None."""
    split_ratio: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test of a random split."""
    split_file: Path | None = None
    """Split file."""
    split_seed: int = 42
    """Seed of a random split."""
    validate: bool = True
    """Whether to evaluate on the validation split during training."""
    ignored: tuple[str, ...] = ()
    """Keys and sections of the file that have no effect on training here."""


# section.key -> field of TrainConfig or RunOptions, for values that need no conversion.
_CONFIG = {
    "dataset.seed": "seed",
    "model.netD": "discriminator",
    "model.lambda_L1": "l1_weight",
    "model.is_CGAN": "conditional",
    "model.c_hid": "discriminator_channels",
    "model.n_layers": "discriminator_layers",
    "training.num_epochs": "epochs",
    "training.batch_size": "batch",
    "training.lr": "learning_rate",
    "training.beta1": "beta1",
    "training.beta2": "beta2",
}
_OPTIONS = {
    "training.save_freq": "save_every",
    "training.eval_freq": "eval_every",
    "training.device": "device",
    "training.num_workers": "workers",
}
_TREATED = {
    "dataset.split_mode", "dataset.split_ratio", "dataset.split_file",
    "model.c_in", "model.c_out", "model.use_upsampling", "model.mode",
    "training.use_validation", "training.resume", "training.resume_epoch", "training.gen_checkpoint",
    "training.disc_checkpoint",
    "logging.comet",
}  # fmt: skip
# DATA and OUT are arguments here, and the order is always shuffled by the seed.
_IGNORED = {
    "dataset.root_dir", "dataset.shuffle", "training.checkpoint_dir", "training.results_dir",
}  # fmt: skip
_OTHER_COMMANDS = {
    "inference": {"image_path", "output_path", "gen_checkpoint", "device"},
    "export": {"gen_checkpoint", "export_path", "export_format", "is_dynamic", "input_shape", "onnx"},
}
_COMET = {"enabled", "project", "name", "entity"}
_SECTIONS = {"inference", "export", "dataset", "model", "training", "logging"}


def read_settings(path: Path) -> FileSettings:
    """Read a configuration file; nothing in it is executed.

    Parameters
    ----------
    path
        YAML: the sections inference, export, dataset, model, training and logging of the re-implemented system, or
        fields of `TrainConfig` and `RunOptions` by name.

    Raises
    ------
    OptionError
        If the file is missing, not YAML, or has an unknown key or an invalid value.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: not a YAML file ({' '.join(str(error).split())[:100]}): correct it") from error
    if not isinstance(content, dict) or not content:
        raise OptionError(
            f"{path}: holds {type(content).__name__}, not settings: write lines of the form `name: value`"
        )
    if _SECTIONS & content.keys():
        return _seed_settings(content, path)
    ours = {f.name for f in fields(TrainConfig)}, {f.name for f in fields(RunOptions)}
    _refuse_unknown(content, ours[0] | ours[1], path)
    config, options = ({k: _number(v) for k, v in content.items() if k in names} for names in ours)
    return FileSettings(config, options)


def settings_record(config: TrainConfig, options: RunOptions, data: Path, signature: ModelSignature) -> bytes:
    """Return all settings of a run as YAML that `read_settings` reads, and its data and signature as comments."""
    import yaml

    given = config.to_dict() | {name: value for name, value in asdict(options).items() if value is not None}
    lines = [
        f"# sar2optical {__version__}: give this file as --config to repeat the run",
        f"# data: {data.resolve()}",
    ]
    lines += [f"# signature: {signature.to_json()}", yaml.safe_dump(given, sort_keys=False)]
    return "\n".join(lines).encode()


def _seed_settings(content: Mapping[str, Any], path: Path) -> FileSettings:
    flat = _flattened(content, path)
    known = _CONFIG.keys() | _OPTIONS.keys() | _TREATED | _IGNORED
    _refuse_unknown(flat, known, path)
    config = {**SEED_RECIPE, **{_CONFIG[k]: _number(v) for k, v in flat.items() if k in _CONFIG}}
    options = {_OPTIONS[k]: _number(v) for k, v in flat.items() if k in _OPTIONS}
    _check_seed_values(flat, path)
    if flat.get("model.use_upsampling"):
        config["upsampling"] = flat.get("model.mode", "nearest")
    if flat.get("model.c_out", 3) != 3:
        raise OptionError(f"{path}: model.c_out is {flat['model.c_out']}: give 3, the channels of optical images")
    comet = flat.get("logging.comet") or {}
    if not isinstance(comet, dict):
        raise OptionError(f"{path}: logging.comet is {comet!r}: give enabled, project, name, entity")
    _refuse_unknown({f"logging.comet.{key}": 0 for key in comet}, {f"logging.comet.{key}" for key in _COMET}, path)
    if comet.get("enabled"):
        options |= {
            "comet": comet.get("project") or "pix2pix",
            "comet_name": comet.get("name"),
            "comet_entity": comet.get("entity"),
        }
    resume = bool(flat.get("training.resume"))
    if resume and "epochs" in config:  # epochs that the loaded weights were already trained for are not repeated
        config["epochs"] -= flat.get("training.resume_epoch") or 0
    files = [_path(flat.get(f"training.{net}_checkpoint")) if resume else None for net in ("gen", "disc")]
    return FileSettings(
        config,
        options,
        generator=files[0],
        discriminator=files[1],
        channels=flat.get("model.c_in", 3),
        **_split(flat, path),
        validate=bool(flat.get("training.use_validation", False)),
        ignored=tuple(sorted({*(k for k in flat if k in _IGNORED), *(s for s in _OTHER_COMMANDS if s in content)})),
    )


def _check_seed_values(flat: Mapping[str, Any], path: Path) -> None:
    """Refuse invalid values that would otherwise fail later, in a message without the key."""
    whole = {"model.c_in": 1, "dataset.seed": 0, "training.num_epochs": 1, "training.resume_epoch": 0}
    for key, least in whole.items():
        value = flat.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise OptionError(f"{path}: {key} is {value!r}: give a whole number, {least} or more")
    for key in ("model.use_upsampling", "training.use_validation", "training.resume"):
        if not isinstance(flat.get(key, False), bool):
            raise OptionError(f"{path}: {key} is {flat[key]!r}: give true or false")


def _split(flat: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Read how the data is split."""
    mode, file = flat.get("dataset.split_mode"), _path(flat.get("dataset.split_file"))
    if mode not in (None, "random", "split") or (mode == "split" and file is None):
        raise OptionError(
            f"{path}: dataset.split_mode is {mode!r} and split_file {file}: give random, or split with a split_file"
        )
    found: dict[str, Any] = {"split_mode": mode, "split_file": file, "split_seed": flat.get("dataset.seed", 42)}
    ratio = flat.get("dataset.split_ratio")
    if ratio is not None:
        shares = [_number(share) for share in ratio] if isinstance(ratio, list) else []
        if len(shares) != 3 or not all(isinstance(share, (int, float)) for share in shares):
            raise OptionError(f"{path}: dataset.split_ratio is {ratio!r}: give shares of train, val and test")
        found["split_ratio"] = tuple(shares)
    return found


def _flattened(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Flatten the training sections to section.key: value; check the keys of the other sections."""
    flat: dict[str, Any] = {}
    _refuse_unknown(content, _SECTIONS, path)
    for section, values in content.items():
        if not isinstance(values, dict):
            raise OptionError(f"{path}: section {section} is {values!r}: write lines of the form `name: value`")
        if section in _OTHER_COMMANDS:
            _refuse_unknown(values, _OTHER_COMMANDS[section], path)
        else:
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    return flat


def _refuse_unknown(given: Mapping[str, Any], known: set[str], path: Path) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), 1, 0.4)
            raise OptionError(f"{path}: unknown key {key}: {f'did you mean {near[0]}' if near else 'remove it'}")


def _number(value: Any) -> Any:
    """Convert numbers such as 2e-4, which YAML 1.1 reads as text."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _path(text: Any) -> Path | None:
    return Path(str(text)) if text else None
