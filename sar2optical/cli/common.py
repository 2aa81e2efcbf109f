"""What every command shares: one line for an error, its exit code, and where log lines go."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from sar2optical.errors import Sar2OpticalError
from sar2optical.signature import UNITS, ModelSignature, Stretch

if TYPE_CHECKING:
    from sar2optical.data.pairs import Reading

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

TERMINATED = 143
"""Likewise after SIGTERM."""


_Command = Callable[..., Any]


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
        type=click.Choice(["auto", "openvino", "onnxruntime", "pytorch", "tensorrt"]),
        default="auto",
        show_default=True,
        help="Library that runs the model; auto takes the fastest installed.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16", "int8", "fp8"]),
        default="auto",
        show_default=True,
        help="Of the arithmetic; auto takes what is fastest here and close to fp32, which is the reference.",
    ),
)
"""How a model is run."""

chip_options = options(
    click.option(
        "--units",
        type=click.Choice(["auto", *UNITS]),
        default="auto",
        show_default=True,
        help="Of SAR chips that are no bytes.",
    ),
    click.option(
        "--optical-max",
        type=click.FloatRange(1),
        help="Reflectance x 10000 that becomes white, in 16-bit optical chips.  [3000]",
    ),
)
"""How chips are read; for `reading`."""


def reading(signature: ModelSignature, side: int, *, units: str, optical_max: float | None) -> Reading:
    """Turn `chip_options` into how chips of at least `side` pixels are read."""
    from sar2optical.data.pairs import Reading

    unit: Any = None if units == "auto" else units
    how = Reading(signature=signature, unit=unit, min_side=side)
    return how if optical_max is None else replace(how, optical_max=optical_max)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can mend into one line on stderr: exit 1, or 130 after Ctrl-C.

    Usage errors are click's: exit 2.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # A batch system's way to say stop: leaves through every context manager, as Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        try:
            command(*args, **kwargs)
        except Sar2OpticalError as error:
            click.echo(f"error: {one_line(error)}", err=True)
            sys.exit(1)
        except MemoryError:
            click.echo("error: out of memory: lower the batch size or the number of threads", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted: nothing was left behind; run the same command again", err=True)
            # Libraries' worker threads may not end by themselves; nothing of ours is left to flush.
            sys.stderr.flush()
            os._exit(INTERRUPTED)

    return run


def parse_stretch(_: click.Context, __: click.Parameter, value: tuple[str, str] | None) -> Stretch | None:
    """Read an option of two bounds; click's callback."""
    if value is None:
        return None
    try:
        return Stretch.parse(*value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def one_line(error: BaseException) -> str:
    """Give an error's text without line breaks."""
    text = " ".join(str(error).split())
    return text.encode(errors="replace").decode()  # file names need not be UTF-8


def set_up_logging(verbosity: int) -> None:
    """Send the library's log lines to stderr: warnings at -1, decisions too at 0, everything at 1."""
    levels = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s" if verbosity < 1 else "%(name)s: %(message)s"))
    logger = logging.getLogger("sar2optical")
    logger.handlers[:] = [handler]
    logger.setLevel(levels[max(-1, min(verbosity, 1))])
    # GDAL's own complaints come to us as exceptions; without a handler Python would print them a second time.
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
