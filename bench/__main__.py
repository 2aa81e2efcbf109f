"""`python -m bench COMMAND`: run from the checkout."""

from __future__ import annotations

import click

from bench.engines import main as engines
from bench.picture import main as picture
from bench.scene import main as scene
from bench.seams import main as seams
from bench.simulate import main as simulate
from bench.training import main as training


@click.group()
def main() -> None:
    """Benches of sar2optical: ratios taken in one interleaved run, on this machine."""


for command in (engines, picture, scene, seams, simulate, training):
    main.add_command(command)

main()
