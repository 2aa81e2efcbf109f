"""The training loop: steps, saves, evaluations and pictures, from the first step or from where a run stopped."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from sar2optical._utils.cores import usable_cores
from sar2optical._utils.files import alone_in, write_output
from sar2optical.data.augment import grid_windows
from sar2optical.data.pairs import Chips
from sar2optical.errors import DeviceUnavailable, OptionError, OutputExists, OutputUnwritable
from sar2optical.evaluation import Score
from sar2optical.evaluation.evaluate import generator_prediction, score
from sar2optical.evaluation.report import Shown, picture
from sar2optical.models.checkpoint import save_generator
from sar2optical.signature import ModelSignature
from sar2optical.training import plots
from sar2optical.training.batches import Batches
from sar2optical.training.config import RunOptions, TrainConfig
from sar2optical.training.device_batches import DeviceBatches
from sar2optical.training.journal import COLUMNS, METRICS, TENSORBOARD, Journal
from sar2optical.training.trainer import Losses, Trainer

_log = logging.getLogger(__name__)

STATE = "state.pth"
"""What a run goes on from."""
GENERATOR = "generator.pth"
"""The newest generator, with its signature."""

_SHOWN = 6  # chips on a sheet
_LOG_STEPS = 50  # between rows of metrics.csv, at most
_DRAW_SECONDS = 20.0
_Source = Batches | DeviceBatches
_NUMBERED = "generator-*.pth"


@dataclass(frozen=True)
class StepReport:
    """What is told after each step."""

    step: int
    steps: int
    losses: Losses
    images_per_second: float
    """Since the run began or went on, evaluations and saves included."""
    score: Score | None
    """Where this step was followed by an evaluation."""


@dataclass(frozen=True)
class Trained:
    """How a run ended."""

    generator: Path
    step: int
    steps: int
    precision: str
    score: Score | None
    """Of the last evaluation."""

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps


def train(
    chips: Sequence[Chips],
    config: TrainConfig,
    signature: ModelSignature,
    out: Path,
    *,
    validation: Sequence[Chips] = (),
    options: RunOptions | None = None,
    restart: bool = False,
    first_weights: tuple[Path | None, Path | None] = (None, None),
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a generator, or go on with the run that `out` holds.

    Parameters
    ----------
    chips, validation
        Pairs to train on, and to evaluate on while training; sides of at least a window.
    config, signature
        The run's settings; what the generator expects, saved beside it.
    out
        Folder for `state.pth`, `generator.pth` (and numbered ones), `metrics.csv`, graphs, sheets of validation chips
        and TensorBoard's files; made where it is not there.
    options
        How the run is carried out.
    restart
        Begin anew where `out` holds a run: its files give way to the new one's first state.
    first_weights
        A generator's and a discriminator's file to start from, where the run is new.
    on_step
        Told of each step, on the first rank.
    should_stop
        Asked before each step; the run is saved then, and can go on later.

    Returns
    -------
    Trained

    Raises
    ------
    DataError
        Where there is no pair, or a chip is smaller than a window.
    CheckpointMismatch, ModelUnreadable
        Where `out` holds a run with other settings or a state that is none.
    DeviceUnavailable, OptionError
        Where the device is not here, or does not fit the batch.
    TrainingDiverged
        Where losses are no numbers any more; the last saved state is good.
    OutputExists
        Where `out` holds a generator and no run that made it.
    OutputUnwritable
        Where something cannot be written, or another run is writing there; what was there stays.
    """
    options = options or RunOptions()
    fabric = _launched(options)
    if config.batch % fabric.world_size or config.batch // fabric.world_size < 2:
        raise OptionError(
            f"batch is {config.batch} on {fabric.world_size} devices: give a multiple, 2 or more for each"
        )
    _make_folder(out)
    with ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(alone_in(out))
        batches = _batches(chips, config, options, fabric, stack)
        per_epoch = -(-batches.windows_per_epoch // (config.batch * config.accumulate))
        steps = config.steps or config.epochs * per_epoch
        trainer = Trainer(config, signature, steps=steps, fabric=fabric)
        state = out / STATE
        if state.exists() and not restart:
            trainer.load(state)
            _log.info("going on from step %d of %d in %s", trainer.step, steps, out)
        else:
            trainer.start_from(*first_weights)
            if fabric.is_global_zero:
                _make_room(out, trainer, restart=restart)
            fabric.barrier()
        run = _Run(trainer, batches, out, options, validation, per_epoch)
        trained = run.until_the_end(on_step, should_stop)
        if fabric.world_size > 1:  # a rank that ends while another still talks to it takes that one down
            fabric.barrier()
            torch.distributed.destroy_process_group()
        return trained


class _Run:
    """One run's cadence; only the first rank writes."""

    def __init__(
        self,
        trainer: Trainer,
        batches: _Source,
        out: Path,
        options: RunOptions,
        validation: Sequence[Chips],
        per_epoch: int,
    ) -> None:
        self._trainer, self._batches, self._out, self._options = trainer, batches, out, options
        self._validation, self._per_epoch = validation, per_epoch
        self._leads = trainer.fabric.is_global_zero
        self._save_steps = max(1, round(options.save_every * per_epoch))
        self._eval_steps = max(1, round(options.eval_every * per_epoch))
        self._log_steps = min(_LOG_STEPS, per_epoch)
        self._journal = Journal(out, options, trainer.config.to_dict(), step=trainer.step) if self._leads else None
        self._losses: list[Losses] = []
        self._drawn = 0.0
        self._score: Score | None = None
        self._began, self._images = time.perf_counter(), 0

    def until_the_end(self, on_step: Callable[[StepReport], None] | None, should_stop: Callable[[], bool]) -> Trained:
        trainer, config = self._trainer, self._trainer.config
        stopped = False
        while trainer.step < trainer.steps and not stopped:
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
        out = self._out / GENERATOR
        return Trained(out, trainer.step, trainer.steps, config.precision, self._score)

    def _after_step(self, *, stopped: bool) -> Score | None:
        step, last = self._trainer.step, self._trainer.step == self._trainer.steps
        scored = None
        saves = step % self._save_steps == 0 or last or stopped
        evaluates = bool(self._validation) and (step % self._eval_steps == 0 or last)
        if saves or evaluates:
            self._trainer.sync_statistics()
            self._trainer.refuse_unsound()
        if self._leads and evaluates:
            scored = self._score = self._evaluate()
        if self._leads and (step % self._log_steps == 0 or saves or evaluates):
            self._write_row(scored)
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
        windows = [window for chip in self._validation for window in grid_windows(chip, side)]
        chosen = np.linspace(0, len(windows) - 1, min(_SHOWN, len(windows))).round().astype(int)
        rows = [Shown(f"window {k}", windows[k][0], predict(windows[k][0]), windows[k][1]) for k in chosen]
        net.train(training)
        step = self._trainer.step
        title = f"step {step}: {found.psnr:.2f} dB, SSIM {found.ssim:.3f}, R2 low-passed {found.r2_low_passed:.3f}"
        write_output(self._out / f"sheet-{step:07d}.png", picture(rows, title))
        return found

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
        """Write the generator, and last the state: a kill between them repeats some steps, and loses nothing."""
        trainer = self._trainer
        notes = {"step": trainer.step, "images": trainer.step * trainer.config.batch * trainer.config.accumulate}
        paths = [self._out / GENERATOR]
        if numbered:
            paths.append(self._out / f"generator-{trainer.step:07d}.pth")
        for path in paths:
            save_generator(path, trainer.result, trainer.signature, notes=notes)
        trainer.save(self._out / STATE)
        numbered_ones = sorted(self._out.glob(_NUMBERED))
        for path in numbered_ones[: -self._options.keep] if self._options.keep else ():
            path.unlink()

    def _due(self) -> bool:
        """Say whether graphs may be drawn again: of epochs of a second, not each is worth one."""
        return time.perf_counter() - self._drawn > _DRAW_SECONDS

    def _rate(self) -> float:
        return self._images / (time.perf_counter() - self._began)

    def _agree(self, stop: bool) -> bool:
        """Stop on all ranks where one is told to."""
        fabric = self._trainer.fabric
        if fabric.world_size == 1:
            return stop
        return bool(fabric.all_reduce(torch.tensor(float(stop)), reduce_op="sum") > 0)  # type: ignore[operator]


def _batches(
    chips: Sequence[Chips], config: TrainConfig, options: RunOptions, fabric: Fabric, stack: ExitStack
) -> _Source:
    """Choose where windows are made; threads end with the stack."""
    if config.windows_on == "device":
        return DeviceBatches(chips, config, fabric.device, rank=fabric.global_rank, ranks=fabric.world_size)
    return stack.enter_context(
        Batches(chips, config, rank=fabric.global_rank, ranks=fabric.world_size, workers=options.workers)
    )


def _launched(options: RunOptions) -> Fabric:
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), usable_cores()))
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("device cuda is not available here: give --device cpu")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # by torchrun, on this machine
    if started and options.devices not in (None, started):
        raise OptionError(f"devices is {options.devices}, torchrun has started {started} processes: leave it out")
    devices = options.devices or started or 1
    try:
        fabric = Fabric(accelerator=device, devices=devices, strategy="ddp" if devices > 1 else "auto")
    except Exception as error:  # of many types
        raise DeviceUnavailable(
            f"{devices} x {device} cannot be had ({' '.join(str(error).split())[:120]}): give --device cpu"
        ) from error
    fabric.launch()
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"  # all windows have one size
    return fabric


def _make_room(out: Path, trainer: Trainer, *, restart: bool) -> None:
    """Let a new run's first state take the place of an old run's files; refuse what no run of ours has left."""
    state, generator, table = out / STATE, out / GENERATOR, out / METRICS
    if not restart and (generator.exists() or table.exists()):
        found = generator if generator.exists() else table
        raise OutputExists(f"{found}: exists, and no run to go on with: choose another folder, or give --restart")
    trainer.save(state)  # from here on the folder is known as a run's, whenever it is killed
    if restart:
        for path in (generator, table, *out.glob(_NUMBERED), *out.glob("sheet-*.png")):
            path.unlink(missing_ok=True)
        shutil.rmtree(out / TENSORBOARD, ignore_errors=True)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"{out}: cannot be made ({error.strerror}): choose another folder") from error
