"""`sar2opt-doctor`: what is installed and what works, on one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click

from sar2optical import __version__
from sar2optical.cli.common import context_settings, reports_errors, set_up_logging
from sar2optical.doctor import AREAS, TIMEOUT, Finding, examine, healthy
from sar2optical.errors import OptionWithoutEffect

_COLOURS = {"ok": "green", "absent": "bright_black", "warning": "yellow", "broken": "red"}


@click.command(context_settings=context_settings("doctor"))
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
@click.option(
    "--tune",
    "tuned",
    is_flag=True,
    help="Measure which engine is the fastest on this CPU, and take it in every run from now on.",
)
@click.option(
    "--model",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="With --tune: an ONNX file. [bundled generator]",
)
@click.version_option(package_name="sar2optical")
@reports_errors
def main(areas: tuple[str, ...], as_json: bool, timeout: float, tuned: bool, model: Path | None) -> None:
    """Say what is installed, what works, and what to do about the rest.

    Every library that runs models is given one of two layers, in a process of its own. Exit 1 where anything is
    broken: needed and not there, or installed and does not work.
    """
    if model and not tuned:
        raise OptionWithoutEffect("--model has no effect without --tune: give both")
    if tuned:
        if areas:
            raise OptionWithoutEffect("--only has no effect with --tune: give one of them")
        tune(model, as_json=as_json)
        return
    findings = examine(areas or AREAS, timeout=timeout)
    click.echo(record(findings) if as_json else page(findings))
    if not healthy(findings):
        sys.exit(1)


def tune(model: Path | None, *, as_json: bool) -> None:
    """Measure engines, keep the fastest, and print what every run will take."""
    from sar2optical.engines import autotune as auto
    from sar2optical.engines.registry import bundled, variants

    set_up_logging(-1 if as_json else 0)
    choice = auto.tune(variants(model or bundled()))
    if as_json:
        click.echo(json.dumps({**asdict(choice), "kept_in": str(auto.tuning_file())}, indent=2))
        return
    click.echo(f"fastest: {choice}")
    click.echo(f"kept in {auto.tuning_file()}: every run takes it and says so; delete the file to undo this")


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
