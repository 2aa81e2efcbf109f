"""Shared by all commands: options, errors as one line with an exit code, signals, progress, logging."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import click

from sar2optical._utils.addresses import redacted
from sar2optical._utils.retries import RetryLog
from sar2optical.engines.registry import BACKENDS, DEVICES, PRECISIONS
from sar2optical.errors import Interrupted, OptionError, OptionWithoutEffect, Sar2OpticalError
from sar2optical.signature import UNITS, ModelSignature, Stretch

if TYPE_CHECKING:
    from sar2optical.data.pairs import Reading

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""

TERMINATED = 143
"""Exit code after SIGTERM: 128 + SIGTERM."""


_AGAIN = "no output is half-written; run the same command again"

_Command = Callable[..., Any]


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every command."""


def name_variables(command: click.Command, prefix: str) -> None:
    """Give each option of a command, and of its subcommands, an environment variable: `SAR2OPT_SCENE_OVERLAP`."""
    for parameter in command.params:
        names = [name for name in parameter.opts if name.startswith("--")]
        if isinstance(parameter, click.Option) and names and not parameter.is_eager:
            parameter.envvar = f"{prefix}_{max(names, key=len)[2:]}".replace("-", "_").upper()
    for name, subcommand in getattr(command, "commands", {}).items():
        name_variables(subcommand, f"{prefix}_{name}")


def options(*decorators: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Make one decorator of several options, in reading order."""

    def apply(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


engine_options = options(
    click.option(
        "--backend",
        type=click.Choice(["auto", *(backend.name for backend in BACKENDS)]),
        default="auto",
        show_default=True,
        help="Library that runs the model; auto: the fastest that is installed and runs the file on the device.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", *DEVICES]),
        default="auto",
        show_default=True,
        help="Device that runs the model; auto: CUDA where it works, else the CPU. Not yet run on hardware: gpu "
        "(Intel graphics, openvino), mps (Apple, pytorch), coreml and directml (onnxruntime).",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", *PRECISIONS]),
        default="auto",
        show_default=True,
        help="Precision of the arithmetic; auto: that of the file, but 16 bits where an fp32 .onnx file runs on a "
        "GPU in pytorch or tensorrt_rtx, and bf16 in openvino if the CPU supports it.",
    ),
)
"""Options of an engine."""

aligned_option = click.option(
    "--aligned",
    is_flag=True,
    help="DATA holds pictures with SAR and optical side by side (A|B), instead of s1 and s2.",
)
"""Option for the layout of pairs."""

optical_options = options(
    click.option(
        "--optical-max",
        type=click.FloatRange(1),
        help="Reflectance x 10000 that becomes white, in 16-bit optical chips.  [3000]",
    ),
    click.option(
        "--rgb",
        nargs=3,
        type=click.IntRange(1),
        metavar="R G B",
        help="Bands of optical chips, from 1.  [default: by name, or a known order]",
    ),
)
"""Options for reading optical chips; for `reading`."""

chip_options = options(
    click.option(
        "--units",
        type=click.Choice(["auto", *UNITS]),
        default="auto",
        show_default=True,
        help="Unit of SAR chips that are not 8-bit; auto: from the files.",
    ),
    optical_options,
    aligned_option,
)
"""Options for reading chips; for `reading`."""


def reading(
    signature: ModelSignature | None,
    side: int,
    *,
    units: str,
    optical_max: float | None,
    rgb: tuple[int, int, int] | None,
    bands: tuple[str, ...] = (),
) -> Reading:
    """Return how to read chips of at least `side` pixels, from `chip_options` and bands."""
    from sar2optical.data.pairs import Reading

    unit: Any = None if units == "auto" else units
    how = Reading(signature=signature, unit=unit, bands=bands, rgb=rgb, min_side=side)
    return how if optical_max is None else replace(how, optical_max=optical_max)


def refuse_bands_of_pictures(bands: tuple[str, ...], *, aligned: bool) -> None:
    """Refuse a band's index for pictures side by side: their SAR half is one grey band."""
    from sar2optical.data.sar_bands import parse_band

    chosen = [band for band in bands if parse_band(band)[0].isdecimal()]
    if aligned and chosen:
        raise OptionError(
            f"--band {chosen[0]} has no effect on --aligned pictures: give a polarisation (VH), or remove --band"
        )


def _leave_terminated(*_: object) -> None:
    """Print what to do, and exit through every context manager."""
    os.write(2, f"terminated: {_AGAIN}\n".encode())  # click.echo may be running already
    sys.exit(TERMINATED)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print an error that the user can correct as one line on stderr, and exit.

    Exit code 1; 2 for usage errors and options without effect; 130 after Ctrl-C.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # Batch systems send SIGTERM: exit through every context manager, as after Ctrl-C.
        signal.signal(signal.SIGTERM, _leave_terminated)
        try:
            command(*args, **kwargs)
        except Sar2OpticalError as error:
            click.echo(f"error: {one_line(error)}", err=True)
            sys.exit(2 if isinstance(error, OptionWithoutEffect) else 1)
        except MemoryError:
            click.echo("error: out of memory: give a smaller --batch-size, or fewer --threads", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(f"interrupted: {_AGAIN}", err=True)
            # Worker threads of libraries may never end; nothing is left to flush.
            sys.stderr.flush()
            os._exit(INTERRUPTED)

    return run


def run_and_leave(command: Callable[[], object]) -> NoReturn:
    """Run a command, and end the process at once: taking PyTorch and CUDA apart would take a second.

    All files are closed by then, and all threads have ended but those of libraries.
    """
    code: object = 0
    try:
        command()
    except SystemExit as left:
        code = left.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of a pipe has left
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


class GentleStop:
    """Finish the current strip after Ctrl-C or SIGTERM, and exit at once after a second one.

    A context manager, and the `stop` callback of `translate`.
    """

    def __init__(self) -> None:
        self.finish_first = ""
        """Name of what is finished first; empty: exit at once."""
        self._asked = False
        self._exit_code = INTERRUPTED
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return True after the first signal."""
        return self._asked

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Interrupted):
            click.echo(f"interrupted: {one_line(error)}", err=True)
            sys.exit(self._exit_code)

    def _hear(self, number: int, _: object) -> None:
        self._exit_code = TERMINATED if number == signal.SIGTERM else INTERRUPTED
        if self._asked or not self.finish_first:
            if number == signal.SIGTERM:
                _leave_terminated()
            raise KeyboardInterrupt
        self._asked = True
        # click.echo may be running already.
        os.write(2, f"\nfinishing {self.finish_first}; press again to exit at once\n".encode())


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def parse_window(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """Read the side of the windows; None for auto."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is not a window size: give auto, or a number of pixels (512)")
    return int(value)


def parse_size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Parse a number of bytes (800MB, 2G, 1.5GiB); a callback for click."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size: give bytes, or a number with MB or GB (800MB, 2GB)")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def parse_stretch(_: click.Context, __: click.Parameter, value: tuple[str, str] | None) -> Stretch | None:
    """Parse an option of two bounds; a callback for click."""
    if value is None:
        return None
    try:
        return Stretch.parse(*value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def one_line(error: BaseException) -> str:
    """Return an error's text and notes without line breaks."""
    notes = getattr(error, "__notes__", ())
    text = " ".join("; ".join((str(error), *map(redacted, notes))).split())
    return text.encode(errors="replace").decode()  # file names need not be UTF-8


@cache
def _suppress_failed_logging() -> None:
    """Suppress what rasterio prints when GDAL quotes a damaged tag that is not UTF-8, and logging it fails.

    Cython prints the error through `sys.excepthook` first, then through `sys.unraisablehook`.
    """
    hook, unraisable_hook = sys.excepthook, sys.unraisablehook

    def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if trace is not None or kind is not UnicodeDecodeError:
            hook(kind, error, trace)

    def print_unraisable(unraisable: Any) -> None:
        if unraisable.object != "rasterio._env.log_error":
            unraisable_hook(unraisable)

    sys.excepthook, sys.unraisablehook = print_error, print_unraisable


class Lines:
    """Progress without a terminal: a line on stderr at the start, then one per minute or per 5 %.

    Parameters
    ----------
    clock
        Function that returns seconds; for tests.
    """

    _SECONDS = 60.0
    _SHARE = 0.05

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._doing = ""
        self._said = (0.0, 0.0)

    def show(self, doing: str, done: float, total: float, unit: str) -> None:
        """Print a line if one is due."""
        now, share = self._clock(), done / total if total else 1.0
        when, said = self._said
        if doing == self._doing and now - when < self._SECONDS and share - said < self._SHARE:
            return
        self._doing, self._said = doing, (now, share)
        click.echo(
            f"{doing}: {done:.{self._digits(total)}f} of {total:.{self._digits(total)}f} {unit}, "
            f"{share:.0%}, {now - self._began:.0f} s",
            err=True,
        )

    @staticmethod
    def _digits(total: float) -> int:
        return 0 if total >= 100 or total == int(total) else 1


class _Formatter(logging.Formatter):
    """Removes secrets of addresses, also from messages and tracebacks of other libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def set_up_logging(verbosity: int) -> None:
    """Print log lines to stderr: warnings at -1, information at 0, everything at 1."""
    levels = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s" if verbosity < 1 else "%(name)s: %(message)s"))
    logger = logging.getLogger("sar2optical")
    logger.handlers[:] = [handler]
    logger.setLevel(levels[max(-1, min(verbosity, 1))])
    # GDAL's errors are raised as exceptions; without a handler, Python would print them a second time.
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    logging.getLogger("rasterio._env").handlers[:] = [RetryLog()]
    _suppress_failed_logging()
