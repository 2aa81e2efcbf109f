"""`sar2opt-view`: compare a scene and its mosaics in the browser, or in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sar2optical._utils.memory import share_heaps
from sar2optical.cli.common import CONTEXT, name_variables, reports_errors, set_up_logging
from sar2optical.errors import OptionWithoutEffect
from sar2optical.signature import UNITS

__all__ = ["main"]


@click.command(context_settings=CONTEXT)
@click.argument("scene")
@click.argument("mosaics", nargs=-1, required=True, metavar="MOSAIC [MORE]...", type=click.Path(path_type=Path))
@click.option("--truth", type=click.Path(path_type=Path), help="Optical image to compare with.")
@click.option(
    "--optical-max",
    type=click.FloatRange(1),
    help="Reflectance x 10000 that becomes white, in a 16-bit --truth.  [3000]",
)
@click.option("--band", help="Polarisation or index of the scene's band.  [default: that of the mosaic's run]")
@click.option(
    "--units", type=click.Choice(UNITS), help="Unit of the scene's values.  [default: that of the mosaic's run]"
)
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained HTML file instead.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --html if it exists.")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(
    scene: str,
    mosaics: tuple[Path, ...],
    truth: Path | None,
    optical_max: float | None,
    band: str | None,
    units: Any,
    html: Path | None,
    overwrite: bool,
    no_browser: bool,
) -> None:
    """Compare a radar SCENE and its MOSAIC in the browser: swipe, zoom, values, windows, provenance.

    The page is served on this machine only, at an address with a secret; Ctrl-C ends it. MORE are other mosaics of
    the scene, on the same grid.
    """
    set_up_logging(0)
    if optical_max is not None and truth is None:
        raise OptionWithoutEffect(f"--optical-max {optical_max:g} has no effect without --truth: give both")
    if overwrite and html is None:
        raise OptionWithoutEffect("--overwrite has no effect without --html: remove it")
    from sar2optical.scene.sources import inputs_of, source_of
    from sar2optical.viewer.exhibit import Choices, open_exhibit
    from sar2optical.viewer.pictures import OPTICAL_MAX

    choices = Choices(band=band, unit=units, truth=truth, optical_max=optical_max or OPTICAL_MAX)
    source = source_of([scene])
    if html:
        if no_browser:
            raise OptionWithoutEffect("--no-browser has no effect with --html: remove it")
        from sar2optical.viewer.html import check_html, write_html

        check_html(html, (*inputs_of(source), *mosaics, *([truth] if truth else [])), overwrite=overwrite)
        write_html(html, source, mosaics, choices)
        click.echo(f"{html}: {html.stat().st_size / 1e6:.1f} MB")
        return
    share_heaps(1)
    with open_exhibit(source, mosaics, choices) as exhibit:
        from sar2optical.viewer.serve import serve

        serve(exhibit, browser=not no_browser, announce=click.echo)


name_variables(main, "SAR2OPT_VIEW")
