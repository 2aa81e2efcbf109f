"""The saved state of a training run: read it, and refuse the state of a run with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sar2optical.errors import CheckpointMismatch, ModelUnreadable
from sar2optical.models.checkpoint import TRAINING_FORMAT, read_tensors
from sar2optical.training.config import TrainConfig, differences

__all__ = ["read_state", "refuse_other_split", "resumed_settings"]


def read_state(path: Path) -> dict[str, Any]:
    """Read the file that `Trainer.save` wrote.

    Raises
    ------
    ModelUnreadable
        If the file is missing, corrupt, or not the state of a training run.
    """
    content = read_tensors(path)
    if content.get("format") != TRAINING_FORMAT:
        raise ModelUnreadable(
            f"{path}: not the state of a training run: give --restart to replace it, or choose another folder"
        )
    return content


def resumed_settings(
    path: Path, content: dict[str, Any], config: TrainConfig, signature: str, steps: int, *, auto_precision: bool
) -> dict[str, Any]:
    """Compare a saved state's settings with those of this run; return the settings to resume with.

    Parameters
    ----------
    path
        File of the state, for messages.
    content
        State, from `read_state`.
    config
        Settings of this run.
    signature
        Signature of this run's generator, as JSON.
    steps
        Updates of this run.
    auto_precision
        Whether this run asks for precision "auto", which takes the saved run's precision.

    Raises
    ------
    CheckpointMismatch
        If the settings differ; the message lists them.
    """
    own = {**config.to_dict(), "signature": signature, "steps": steps, "epochs": None}
    # A setting that did not exist when the state was saved has its default.
    saved = {
        **TrainConfig().to_dict(),
        **content["config"],
        "signature": content["signature"],
        "steps": content["steps"],
        "epochs": None,
    }
    if auto_precision:
        own["precision"] = saved["precision"]
    if config.decay_from == 1 and config.gan_from == 0:  # no step depends on the number of steps then
        own["steps"] = saved["steps"]
    different = differences(saved, own)
    if different:
        raise CheckpointMismatch(
            f"{path}: saved by a run with other settings (saved/given: {', '.join(different)}): give the saved "
            "settings, --restart, or another folder"
        )
    return own


def refuse_other_split(path: Path, record: bytes | None) -> None:
    """Refuse to hold out other pairs than the run did: it may have been trained on them.

    Raises
    ------
    CheckpointMismatch
        If it would.
    """
    if record is None or (path.exists() and path.read_bytes() == record):
        return
    if path.exists():
        what, remedy = "holds out other pairs than would be held out now", f"--split {path}"
    else:
        what, remedy = "is missing: the run was begun without pairs held out", "--val-fraction 0, or --val-data"
    raise CheckpointMismatch(f"{path}: {what}: give {remedy} to resume, or --restart")
