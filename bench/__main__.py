"""`python -m bench COMMAND`: run from the checkout."""

from __future__ import annotations

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


@click.group()
def main() -> None:
    """Benches of sar2optical: ratios taken in one interleaved run, on this machine."""


for command in (compare, engines, guard, peers, picture, report, scene, seams, simulate, training):
    main.add_command(command)

if __name__ == "__main__":
    main()
