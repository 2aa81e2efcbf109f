"""`sar2opt-export`: load the export stage that is installed with this package, and run its command.

`export` is a common name for a package: another one may come first on `sys.path`, for example from `PYTHONPATH`. So
the export stage is loaded by its path, beside this package, and only at run time: nothing in `sar2optical` has an
import statement for `export`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import click

from sar2optical.cli.common import reports_errors
from sar2optical.errors import BackendNotInstalled

__all__ = ["command", "load_export", "main"]

_NAME = "export"


def main() -> None:
    """Run `sar2opt-export`."""
    reports_errors(load_export)()
    command()()


def command() -> click.Command:
    """Return the command, for `sar2optical export`."""
    load_export()
    found: click.Command = import_module(f"{_NAME}.cli").main
    return found


def load_export(folder: Path | None = None) -> None:
    """Import this distribution's `export` package, whatever else `sys.path` has of that name.

    Parameters
    ----------
    folder
        Folder that holds the package; None: the one that holds `sar2optical`.

    Raises
    ------
    BackendNotInstalled
        If the folder has no such package.
    """
    folder = folder or Path(__file__).parents[2]
    path = folder / _NAME / "__init__.py"
    if not path.is_file():
        raise BackendNotInstalled(
            f"{path}: no such file: the installation is incomplete: pip install --force-reinstall sar2optical"
        )
    loaded = sys.modules.get(_NAME)
    if loaded is not None and loaded.__file__ and Path(loaded.__file__).samefile(path):
        return
    spec = spec_from_file_location(_NAME, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
