"""`sar2optical`: one command with all others as subcommands, each loaded when it is used."""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "scene": "sar2optical.cli.scene",
    "batch": "sar2optical.cli.batch",
    "export": "sar2optical.cli.export",
    "train": "sar2optical.cli.train",
    "eval": "sar2optical.cli.evaluate",
    "data": "sar2optical.cli.data",
    "view": "sar2optical.cli.view",
    "doctor": "sar2optical.cli.doctor",
}
"""Module of each subcommand."""

_SHORT = {
    "scene": "Translate a Sentinel-1 raster or product into an RGB mosaic.",
    "batch": "Translate many scenes, on one machine or a Dask cluster.",
    "export": "Export a generator to ONNX or TensorRT, verified.",
    "train": "Train a generator on pairs of SAR and optical chips.",
    "eval": "Score generators on pairs of chips.",
    "data": "Check, split, harmonise, download and simulate training pairs.",
    "view": "Compare a scene and its mosaics in the browser, or in one HTML file.",
    "doctor": "Show what is installed and what works on this machine.",
}
"""Line of each subcommand in the help; the commands themselves are not imported for it."""


class _Lazy(click.Group):
    """A group that imports a subcommand when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None if there is none of the name."""
        if cmd_name not in COMMANDS:
            return None
        from sar2optical.errors import Sar2OpticalError

        module = import_module(COMMANDS[cmd_name])
        try:
            command: click.Command = module.command() if cmd_name == "export" else module.main
        except Sar2OpticalError as error:
            raise click.ClickException(str(error)) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_SHORT.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sar2optical")
def main() -> None:
    """Translate Sentinel-1 radar into optical-looking RGB.

    Each subcommand is also installed as sar2opt-NAME.
    """
