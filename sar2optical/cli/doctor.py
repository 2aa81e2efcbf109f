"""`sar2opt-doctor`: what is installed and what works, on one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

import click

from sar2optical import __version__
from sar2optical.cli.common import reports_errors
from sar2optical.doctor import AREAS, TIMEOUT, Finding, examine, healthy

_COLOURS = {"ok": "green", "absent": "bright_black", "warning": "yellow", "broken": "red"}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--only",
    "areas",
    type=click.Choice(AREAS),
    multiple=True,
    help="Part of the page; may be repeated. All where not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a page.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=TIMEOUT,
    show_default=True,
    help="Seconds that each library has.",
)
@click.version_option(package_name="sar2optical")
@reports_errors
def main(areas: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Say what is installed, what works, and what to do about the rest.

    Every library that runs models is given one of two layers, in a process of its own. Exit 1 where anything is
    broken: needed and not there, or installed and does not work.
    """
    findings = examine(areas or AREAS, timeout=timeout)
    click.echo(record(findings) if as_json else page(findings))
    if not healthy(findings):
        sys.exit(1)


def record(findings: Sequence[Finding]) -> str:
    """Write findings as JSON."""
    whole = {"version": __version__, "ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}
    return json.dumps(whole, indent=2)


def page(findings: Sequence[Finding]) -> str:
    """Lay findings out by area, each problem with its remedy under it."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines: list[str] = []
    for area, some in groupby(findings, key=lambda finding: finding.area):
        lines += ["", area] if lines else [area]
        for finding in some:
            mark = click.style(f"{finding.state:<7}", fg=_COLOURS[finding.state])
            lines.append(f"  {mark}  {finding.name:<{width}}  {finding.detail}")
            if finding.remedy:
                lines.append(f"  {'':<7}  {'':<{width}}  > {finding.remedy}")
    return "\n".join([*lines, "", _closing(findings)])


def _closing(findings: Sequence[Finding]) -> str:
    parts = []
    for state in ("broken", "warning"):
        names = [finding.name for finding in findings if finding.state == state]
        if names:
            parts.append(f"{state}: {', '.join(names)}")
    return "; ".join(parts) or "all that is installed works"


if __name__ == "__main__":
    main()
