"""Test sessions beyond CI: each supported Python, and the lowest versions of the base dependencies.

Run one with `nox -s tests-3.13`, `nox -s lowest` or `nox -s lint`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PYTEST = ("python", "-m", "pytest", "-n", "auto", "--dist", "loadfile")

nox.options.sessions = ["lint", "tests"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests with the newest versions that pip finds."""
    session.install("-e", ".[dev]")
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run all tests with the lowest versions of the base dependencies."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(need.replace(">=", "==") for need in project["dependencies"]) + "\n")
    session.install("-e", ".[dev]", "-c", str(constraints))
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Run ruff and mypy with CI's versions."""
    session.install("-e", ".[dev]", "-c", "constraints.txt")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
