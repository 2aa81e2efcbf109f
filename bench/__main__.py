"""`python -m bench COMMAND`: run from the checkout."""

from __future__ import annotations

from typing import Any

import click

from bench.compare import main as compare
from bench.engines import main as engines
from bench.guard import main as guard
from bench.peers import main as peers
from bench.picture import main as picture
from bench.report import main as report
from bench.scene import main as scene
from bench.seams import main as seams
from bench.simulate import main as simulate
from bench.training import main as training
from sar2optical.errors import Sar2OpticalError


class _Benches(click.Group):
    """Benches, whose users' errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run one."""
        try:
            return super().invoke(ctx)
        except Sar2OpticalError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Benches)
def main() -> None:
    """Benches of sar2optical: ratios taken in one interleaved run, on this machine."""


for command in (compare, engines, guard, peers, picture, report, scene, seams, simulate, training):
    main.add_command(command)

if __name__ == "__main__":
    main()
