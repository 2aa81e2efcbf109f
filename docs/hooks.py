"""Pages that are made when the documentation is built: from files outside `docs/`, commands and findings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

COPIES = {
    "README.md": "guide.md",
    "sar2optical/weights/MODEL_CARD.md": "model-card.md",
    "bench/README.md": "benches.md",
}
"""Files outside `docs/`, and their pages."""

_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and the pictures of copied ones."""
    for source, uri in COPIES.items():
        files.append(_page(config, uri, (ROOT / source).read_text(encoding="utf-8")))
    for plot in sorted((ROOT / "bench" / "results").glob("*.svg")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    files.append(_page(config, "reference/commands.md", _commands()))
    files.append(_page(config, "reference/findings.md", _findings()))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Replace links to files of the repository: by links to their pages, or by their names."""
    folder = _folder_of(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        start, target, anchor, end = match.groups()
        if "://" in target or files.get_file_from_path(_joined(page.file.src_uri, target)):
            return match[0]
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]
        uri = COPIES.get(path.relative_to(ROOT).as_posix()) or (
            path.relative_to(ROOT / "docs").as_posix() if path.is_relative_to(ROOT / "docs") else None
        )
        up = "../" * page.file.src_uri.count("/")
        return f"{start}{up}{uri}{anchor or ''}{end}" if uri else f"{start}{up}guide.md{end}"

    return _LINK.sub(replaced, markdown)


def _folder_of(uri: str) -> Path:
    """Return the folder that links of a page start from."""
    source = next((name for name, page in COPIES.items() if page == uri), None)
    return (ROOT / source).parent if source else (ROOT / "docs" / uri).parent


def _joined(uri: str, target: str) -> str:
    return (Path("/") / Path(uri).parent / target).resolve().relative_to("/").as_posix()


def _page(config: Any, uri: str, text: str) -> File:
    return File.generated(config, uri, content=text)


def _commands() -> str:
    """Return the help of every command."""
    from sar2optical.cli.group import COMMANDS, main

    parts = ["# Commands", "Each command is also a subcommand of `sar2optical`. This page is the commands' own help."]
    group = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(group, name)
        assert command is not None
        parts += _help_of(command, f"sar2opt-{name}")
    return "\n\n".join(parts) + "\n"


def _help_of(command: click.Command, name: str) -> list[str]:
    context = click.Context(command, info_name=name, max_content_width=80, terminal_width=80)
    parts = [f"## {name}", f"```text\n{command.get_help(context)}\n```"]
    for key in command.list_commands(context) if isinstance(command, click.Group) else ():
        inner = command.get_command(context, key)
        assert inner is not None
        parts += [part.replace("## ", "### ", 1) for part in _help_of(inner, f"{name} {key}")]
    return parts


def _findings() -> str:
    """Return the headers of the scripts in `findings/`."""
    parts = [
        "# Findings",
        "Surprises of libraries and formats. Each is a script in `findings/` that shows it with pinned packages and "
        "without sar2optical.",
    ]
    for path in sorted((ROOT / "findings").glob("*.sh")):
        lines = path.read_text(encoding="utf-8").splitlines()
        header = [line[1:].strip() for line in lines[1:] if line.startswith("#")]
        text = re.sub(r"(?<!^)(?=(?:What happens|Version|Source|Why a user cares): )", "\n\n", " ".join(header))
        text = re.sub(r"(?m)^\s*([A-Z][a-z ]+): ", r"**\1**: ", text)
        parts += [f"## {path.stem.replace('_', ' ')}", text, f"`findings/{path.name}`"]
    return "\n\n".join(parts) + "\n"
