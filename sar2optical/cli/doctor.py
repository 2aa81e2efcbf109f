"""`sar2opt-doctor`: report what is installed, what works, and how to fix what does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click

from sar2optical import __version__
from sar2optical.cli.common import CONTEXT, name_variables, reports_errors, set_up_logging
from sar2optical.doctor import AREAS, TIMEOUT, Finding, examine, healthy
from sar2optical.errors import OptionWithoutEffect

__all__ = ["main", "page", "record", "tune"]

_COLOURS = {"ok": "green", "absent": "bright_black", "warning": "yellow", "broken": "red"}


@click.command(context_settings=CONTEXT)
@click.option(
    "--only",
    "areas",
    type=click.Choice(AREAS),
    multiple=True,
    help="Section of the report; may be repeated.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=TIMEOUT,
    show_default=True,
    help="Timeout in seconds for each library.",
)
@click.option(
    "--tune",
    "tuned",
    is_flag=True,
    help="Measure which engine is the fastest on this CPU. Later runs on the CPU use it, with the same model files, "
    "--backend auto and --precision auto.",
)
@click.option(
    "--model",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="ONNX file to measure with --tune.  [default: bundled generator]",
)
@click.version_option(package_name="sar2optical")
@reports_errors
def main(areas: tuple[str, ...], as_json: bool, timeout: float, tuned: bool, model: Path | None) -> None:
    """Report what is installed, what works, and how to fix what does not.

    Each backend runs a small model in a subprocess. The exit status is 1 if anything is broken: required and not
    installed, or installed and not working.
    """
    if model and not tuned:
        raise OptionWithoutEffect("--model has no effect without --tune: give both, or remove --model")
    if tuned:
        if areas:
            raise OptionWithoutEffect("--only has no effect with --tune: remove one of them")
        tune(model, as_json=as_json)
        return
    findings = examine(areas or AREAS, timeout=timeout)
    click.echo(record(findings) if as_json else page(findings))
    if not healthy(findings):
        sys.exit(1)


def tune(model: Path | None, *, as_json: bool) -> None:
    """Measure engines, store the fastest, and print it."""
    from sar2optical.engines import autotune as auto
    from sar2optical.engines.registry import bundled, variants

    set_up_logging(-1 if as_json else 0)
    choice = auto.tune(variants(model or bundled()))
    if as_json:
        click.echo(json.dumps({**asdict(choice), "kept_in": str(auto.tuning_file())}, indent=2))
        return
    click.echo(f"fastest: {choice}")
    click.echo(f"stored in {auto.tuning_file()}: later runs use it and log it; delete the file to undo this")


def record(findings: Sequence[Finding]) -> str:
    """Format findings as JSON."""
    report = {"version": __version__, "ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}
    return json.dumps(report, indent=2)


def page(findings: Sequence[Finding]) -> str:
    """Format findings as text by section, each with its remedy below it."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines: list[str] = []
    for area, some in groupby(findings, key=lambda finding: finding.area):
        lines += ["", area] if lines else [area]
        for finding in some:
            mark = click.style(f"{finding.state:<7}", fg=_COLOURS[finding.state])
            lines.append(f"  {mark}  {finding.name:<{width}}  {finding.detail}")
            if finding.remedy:
                lines.append(f"  {'':<7}  {'':<{width}}  > {finding.remedy}")
    return "\n".join([*lines, "", _summary(findings)])


def _summary(findings: Sequence[Finding]) -> str:
    problems = []
    for state in ("broken", "warning"):
        names = [finding.name for finding in findings if finding.state == state]
        if names:
            problems.append(f"{state}: {', '.join(names)}")
    return "; ".join(problems) or "everything that is installed works"


name_variables(main, "SAR2OPT_DOCTOR")


if __name__ == "__main__":
    main()
