"""Training loop: steps, saves, evaluations and graphs of a new or resumed run."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from sar2optical._utils.files import alone_in, write_output
from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips
from sar2optical.errors import OptionError, OutputExists, OutputUnwritable
from sar2optical.evaluation.evaluate import score
from sar2optical.evaluation.predictors import generator_prediction
from sar2optical.evaluation.report import Shown, picture
from sar2optical.evaluation.scores import Score
from sar2optical.models.checkpoint import save_generator
from sar2optical.signature import ModelSignature
from sar2optical.training import plots
from sar2optical.training.batches import Batches
from sar2optical.training.config import SETTINGS, SPLIT, RunOptions, TrainConfig
from sar2optical.training.device_batches import DeviceBatches
from sar2optical.training.journal import COLUMNS, METRICS, TENSORBOARD, Journal, Row
from sar2optical.training.launch import launched
from sar2optical.training.state import refuse_other_split
from sar2optical.training.trainer import Losses, Trainer

__all__ = ["BEST", "GENERATOR", "STATE", "StepReport", "Trained", "TrainingJob", "train"]

_log = logging.getLogger(__name__)

STATE = "state.pth"
"""File name of the state that a run resumes from."""
GENERATOR = "generator.pth"
"""File name of the newest generator, with its signature."""
BEST = "best.pth"
"""File name of the generator with the highest validation PSNR."""

_SHOWN = 6  # windows on a sheet
_LOG_STEPS = 50  # largest number of steps between rows of metrics.csv
_DRAW_SECONDS = 20.0  # least time between drawings of the graphs
_Source = Batches | DeviceBatches
_NUMBERED = "generator-*.pth"


@dataclass(frozen=True)
class StepReport:
    """Progress of a run after a step."""

    step: int
    steps: int
    losses: Losses
    images_per_second: float
    """Mean rate since the run was started or resumed, including evaluations and saves."""
    score: Score | None
    """Score of the evaluation that followed this step, or None."""


@dataclass(frozen=True)
class Trained:
    """Outcome of a run."""

    generator: Path
    """Path of the generator's checkpoint."""
    step: int
    steps: int
    precision: str
    score: Score | None
    """Score of the last evaluation, or None."""
    best: tuple[int, float] | None = None
    """Step and PSNR of the best evaluation of the run; its generator is in `best.pth`. None without validation."""
    ended_early: bool = False
    """Whether the run ended because its PSNR had not risen for `RunOptions.patience` evaluations."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the run ended early."""
        return self.step >= self.steps or self.ended_early


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Everything that a training run needs."""

    chips: Sequence[Chips]
    """Pairs to train on, with sides of at least a window."""
    config: TrainConfig
    """Settings that change the result."""
    signature: ModelSignature
    """Signature of the generator; saved with it."""
    out: Path
    """Run folder: `state.pth`, `generator.pth`, `best.pth` and numbered ones, `metrics.csv`, graphs, sheets of
    validation windows and TensorBoard's files. Created if missing."""
    validation: Sequence[Chips] = ()
    """Pairs to evaluate on during training."""
    validation_names: Sequence[str] = ()
    """Names of these pairs, shown on sheets; empty: their numbers."""
    records: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of the run folder, by name: settings, and the split."""
    options: RunOptions = field(default_factory=RunOptions)
    """Settings of the execution, which may change when the run is resumed."""
    restart: bool = False
    """Start a new run even if `out` holds one; the old run's files are deleted when the new state is saved."""
    first_generator: Path | None = None
    """File with the generator's initial weights, for a new run."""
    first_discriminator: Path | None = None
    """File with the discriminator's initial weights, for a new run."""


def train(
    job: TrainingJob,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a generator, or resume the run in `job.out`.

    Parameters
    ----------
    job
        Data, settings and run folder.
    on_step
        Called after each step, on the first rank.
    should_stop
        Called after each step; if it returns True, the run is saved and can be resumed.

    Returns
    -------
    Trained

    Raises
    ------
    DataError
        If there is no pair, or a chip is smaller than a window.
    CheckpointMismatch, ModelUnreadable
        If `job.out` holds a run with other settings or other pairs held out, or an unreadable state.
    DeviceUnavailable, OptionError
        If the device is not available, or does not fit the batch.
    TrainingDiverged
        If losses are not finite; the last saved state is usable.
    OutputExists
        If `job.out` holds a generator without the run that made it.
    OutputUnwritable
        If a file cannot be written, or another run is writing to the folder; existing files are kept.
    """
    config, fabric = job.config, launched(job.options)
    if config.batch % fabric.world_size or config.batch // fabric.world_size < 2:
        raise OptionError(
            f"batch is {config.batch} on {fabric.world_size} devices: give a multiple of {fabric.world_size}, "
            f"at least {2 * fabric.world_size}"
        )
    _make_folder(job.out)
    with ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(alone_in(job.out))
        batches = _batches(job, fabric, stack)
        per_epoch = -(-batches.windows_per_epoch // (config.batch * config.accumulate))
        steps = config.steps or config.epochs * per_epoch
        trainer = Trainer(config, job.signature, steps=steps, fabric=fabric)
        _load_or_start(job, trainer)
        if fabric.is_global_zero:
            for name, content in job.records.items():
                write_output(job.out / name, content)
        trained = _Run(job, trainer, batches, per_epoch).run(on_step, should_stop)
        if fabric.world_size > 1:  # a rank that exits while another still communicates makes that one fail
            fabric.barrier()
            torch.distributed.destroy_process_group()
        return trained


def _load_or_start(job: TrainingJob, trainer: Trainer) -> None:
    """Resume from the state in the run folder, or prepare the folder for a new run."""
    state = job.out / STATE
    if state.exists() and not job.restart:
        trainer.load(state)
        if trainer.step:  # before, nothing has been trained on
            refuse_other_split(job.out / SPLIT, job.records.get(SPLIT))
        _log.info("resuming at step %d of %d in %s", trainer.step, trainer.steps, job.out)
        return
    trainer.start_from(job.first_generator, job.first_discriminator)
    if trainer.fabric.is_global_zero:
        _replace_run(job.out, trainer, restart=job.restart)
    trainer.fabric.barrier()


class _Run:
    """Loop over the steps with saves, evaluations and graphs; only the first rank writes."""

    def __init__(self, job: TrainingJob, trainer: Trainer, batches: _Source, per_epoch: int) -> None:
        self._trainer, self._batches, self._out, self._options = trainer, batches, job.out, job.options
        self._validation, self._per_epoch = job.validation, per_epoch
        self._names = job.validation_names or [f"pair {k}" for k in range(len(job.validation))]
        self._leads = trainer.fabric.is_global_zero
        self._save_steps = max(1, round(job.options.save_every * per_epoch))
        self._eval_steps = max(1, round(job.options.eval_every * per_epoch))
        self._log_steps = min(_LOG_STEPS, per_epoch)
        settings = trainer.config.to_dict()
        self._journal = Journal(job.out, job.options, settings, step=trainer.step) if self._leads else None
        self._losses: list[Losses] = []
        self._drawn = 0.0
        self._score: Score | None = None
        self._began, self._images = time.perf_counter(), 0

    def run(self, on_step: Callable[[StepReport], None] | None, should_stop: Callable[[], bool]) -> Trained:
        """Take all remaining steps, or stop after the step at which `should_stop` returns True."""
        trainer, config = self._trainer, self._trainer.config
        stopped = False
        self._early = self._agree(self._has_no_patience())
        while trainer.step < trainer.steps and not stopped and not self._early:
            first = trainer.step * config.accumulate
            losses = trainer.advance([self._batches.batch(first + k) for k in range(config.accumulate)])
            self._losses.append(losses)
            self._images += config.batch * config.accumulate
            stopped = self._agree(should_stop())
            scored = self._after_step(stopped=stopped)
            if on_step and self._leads:
                on_step(StepReport(trainer.step, trainer.steps, losses, self._rate(), scored))
        if self._journal:
            self._journal.close()
        return Trained(
            self._out / GENERATOR,
            trainer.step,
            trainer.steps,
            config.precision,
            self._score,
            best=self._best(),
            ended_early=self._early,
        )

    def _after_step(self, *, stopped: bool) -> Score | None:
        step, last = self._trainer.step, self._trainer.step == self._trainer.steps
        scored = None
        saves = step % self._save_steps == 0 or last or stopped
        evaluates = bool(self._validation) and (step % self._eval_steps == 0 or last)
        if saves or evaluates:
            self._trainer.sync_statistics()
            self._trainer.check_finite()
        if self._leads and evaluates:
            before = self._best()
            scored = self._score = self._evaluate()
            if before is None or _as_stored(scored.psnr) > before[1]:
                self._save_generator(self._out / BEST)
        if self._leads and (step % self._log_steps == 0 or saves or evaluates):
            self._write_row(scored)
        if evaluates:
            self._early = self._agree(self._has_no_patience())
            last, saves = last or self._early, saves or self._early
        if self._leads and (last or stopped or (step % self._per_epoch == 0 and self._due())):
            assert self._journal is not None
            plots.draw(self._out, self._journal.rows)
            self._drawn = time.perf_counter()
        if self._leads and saves:
            self._save(numbered=not stopped or last)
        if saves or evaluates:
            self._trainer.fabric.barrier()
        return scored

    def _evaluate(self) -> Score:
        net = self._trainer.result
        training = net.training
        predict = generator_prediction(net.eval())
        side = self._trainer.signature.window
        found = score(predict, self._validation, window=side)
        windows = [
            (name, *window)
            for name, chip in zip(self._names, self._validation, strict=True)
            for window in grid_windows(chip, side)
        ]
        shown = np.linspace(0, len(windows) - 1, min(_SHOWN, len(windows))).round().astype(int)
        rows = [Shown(name, sar, predict(sar), real) for name, sar, real in (windows[k] for k in shown)]
        net.train(training)
        step = self._trainer.step
        title = f"step {step}: {found.psnr:.2f} dB, SSIM {found.ssim:.3f}, R2 low-passed {found.r2_low_passed:.3f}"
        write_output(self._out / f"sheet-{step:07d}.png", picture(rows, title))
        return found

    def _best(self) -> tuple[int, float] | None:
        """Return step and PSNR of the best evaluation so far, the first of equal ones, as in `metrics.csv`."""
        found = [(_as_stored(row["val_psnr"]), -row["step"]) for row in self._evaluations()]
        return (-int(max(found)[1]), max(found)[0]) if found else None

    def _evaluations(self) -> list[Row]:
        return [row for row in self._journal.rows if "val_psnr" in row] if self._journal else []

    def _has_no_patience(self) -> bool:
        """Whether the PSNR has not risen for too many evaluations; on the first rank."""
        best = self._best()
        if best is None or self._options.patience is None:
            return False
        since = sum(row["step"] > best[0] for row in self._evaluations())
        return since >= self._options.patience

    def _write_row(self, scored: Score | None) -> None:
        names = [name for name in COLUMNS if name.startswith("loss_")]
        means = np.mean([list(asdict(losses).values()) for losses in self._losses], axis=0)
        assert len(fields(Losses)) == len(names)
        trainer = self._trainer
        row = {
            "step": trainer.step,
            "epoch": trainer.step / self._per_epoch,
            "images_per_s": self._rate(),
            "learning_rate": trainer.config.rate_at(trainer.step - 1, trainer.steps),
            **dict(zip(names, map(float, means), strict=True)),
        }
        if scored:
            figures = {f"val_{name}": value for name, value in asdict(scored).items()}
            row |= {name: value for name, value in figures.items() if name in COLUMNS and not math.isnan(value)}
        assert self._journal is not None
        self._journal.write(row)
        self._losses = []

    def _save(self, *, numbered: bool) -> None:
        """Write the generator, then the state: a run killed in between repeats some steps and loses nothing."""
        self._save_generator(self._out / GENERATOR)
        if numbered:
            self._save_generator(self._out / f"generator-{self._trainer.step:07d}.pth")
        self._trainer.save(self._out / STATE)
        numbered_ones = sorted(self._out.glob(_NUMBERED))
        for path in numbered_ones[: -self._options.keep] if self._options.keep else ():
            path.unlink()

    def _save_generator(self, path: Path) -> None:
        trainer = self._trainer
        notes = {"step": trainer.step, "images": trainer.step * trainer.config.batch * trainer.config.accumulate}
        save_generator(path, trainer.result, trainer.signature, notes=notes)

    def _due(self) -> bool:
        """Whether to draw graphs again: drawing after every short epoch would slow the run down."""
        return time.perf_counter() - self._drawn > _DRAW_SECONDS

    def _rate(self) -> float:
        return self._images / (time.perf_counter() - self._began)

    def _agree(self, stop: bool) -> bool:
        """Whether any rank wants to stop."""
        fabric = self._trainer.fabric
        if fabric.world_size == 1:
            return stop
        return bool(fabric.all_reduce(torch.tensor(float(stop)), reduce_op="sum") > 0)  # type: ignore[operator]


def _as_stored(figure: float) -> float:
    """Round a figure as `metrics.csv` does, so that a resumed run compares the same figures."""
    return float(f"{figure:.6g}")


def _batches(job: TrainingJob, fabric: Fabric, stack: ExitStack) -> _Source:
    """Choose where windows are made; the stack ends the threads."""
    rank, ranks = fabric.global_rank, fabric.world_size
    if job.config.windows_on == "device":
        return DeviceBatches(job.chips, job.config, fabric.device, rank=rank, ranks=ranks)
    return stack.enter_context(Batches(job.chips, job.config, rank=rank, ranks=ranks, workers=job.options.workers))


def _replace_run(out: Path, trainer: Trainer, *, restart: bool) -> None:
    """Save the first state of a new run, then delete an old run's files; refuse files of unknown origin."""
    state, generator, table = out / STATE, out / GENERATOR, out / METRICS
    if not restart and (generator.exists() or table.exists()):
        found = generator if generator.exists() else table
        raise OutputExists(
            f"{found}: exists, but there is no run to resume: choose another folder, or give --restart to replace it"
        )
    trainer.save(state)  # saved first, so that a run killed from here on can be resumed
    if restart:
        for path in (
            generator,
            out / BEST,
            out / SPLIT,
            out / SETTINGS,
            table,
            *out.glob(_NUMBERED),
            *out.glob("sheet-*.png"),
        ):
            path.unlink(missing_ok=True)
        shutil.rmtree(out / TENSORBOARD, ignore_errors=True)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"{out}: cannot be created ({error.strerror}): choose another folder") from error
