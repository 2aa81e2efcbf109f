"""`sar2opt-export`: a generator checkpoint in, a verified ONNX file out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from export.precision import DEFAULT_OPSET, OPSETS, Precision, Storage
from sar2optical.cli.common import reports_errors, set_up_logging
from sar2optical.errors import BackendNotInstalled

if TYPE_CHECKING:
    from export.build import Exported

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("source")
@click.argument("out", type=_FILE)
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option(
    "--opset",
    type=click.IntRange(OPSETS[0], OPSETS[-1]),
    default=DEFAULT_OPSET,
    show_default=True,
    help="Of the ONNX operators.",
)
@click.option(
    "--storage",
    type=click.Choice(get_args(Storage)),
    default="fp32",
    show_default=True,
    help="How weights are kept; fp16 halves the file, arithmetic stays fp32.",
)
@click.option(
    "--verify-with",
    type=_FILE,
    help="Real chips (a folder) or a scene to prove parity on; simulated chips where not given.",
)
@click.option(
    "--upsampling",
    type=click.Choice(["nearest", "bilinear", "bicubic"]),
    help="Mode of a bare state dict whose decoder upsamples.  [default: nearest]",
)
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(source: str, out: Path, quiet: bool, **options: Any) -> None:
    """Export a generator checkpoint SOURCE to an ONNX file OUT, verified before it appears.

    SOURCE is a file, or the name of a published generator (pix2pix_gen_180), which is fetched from its hub once.
    """
    set_up_logging(-1 if quiet else 0)
    _require("torch", "onnx", "onnxscript", "onnxruntime")
    from export.build import export
    from sar2optical.models.zoo import resolve

    made = export(resolve(source), out, **options)
    if not quiet:
        click.echo(table(made))


def _require(*libraries: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise BackendNotInstalled(f"exporting needs {', '.join(missing)}: pip install 'sar2optical[export]'")


def table(made: Exported) -> str:
    """Lay out what was made, and how well it agrees with its source."""
    parity, signature = made.parity, made.signature
    rows = [
        ("file", str(made.out)),
        ("size", f"{made.megabytes:.1f} MB"),
        ("model", signature.name),
        (
            "input",
            f"sar (N, {signature.channels}, {signature.window}, {signature.window}), {','.join(signature.bands)}",
        ),
        ("unit", f"{signature.unit}, {'; '.join(map(str, signature.stretch))}"),
        ("opset", str(made.opset)),
        ("verified on", f"{parity.chips} chips ({parity.source})"),
        ("lowest PSNR", f"{parity.psnr:.1f} dB"),
        ("lowest SSIM", f"{parity.ssim:.6f}"),
        ("largest error", f"{parity.max_error:.2e}"),
        ("mean error", f"{parity.mean_error:.2e}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
