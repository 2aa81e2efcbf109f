"""An environment for each tool: made by `python -m bench peers --install`, versions named here and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

_COMMON = ("torch==2.13.0", "numpy", "rasterio", "tqdm")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A tool that takes a scene through a generator, window by window."""

    name: str
    """Of its distribution."""
    version: str
    needs: tuple[str, ...] = ()
    """What the part that is used here imports, where not all that it asks for is installed."""
    whole: bool = False
    """Whether it is installed with all that it asks for."""
    blends: bool = True
    writes_file: bool = False
    """Whether it reads and writes georeferenced files by itself."""
    streams: bool = False
    """Whether it gets by without holding the scene."""

    @property
    def how(self) -> str:
        """Say how it is installed."""
        return "with all that it asks for" if self.whole else f"by itself, and {', '.join(self.needs)}"


PEERS = (
    Peer(
        name="opensr-utils",
        version="2.1.0",
        needs=("pytorch-lightning", "pillow"),
        writes_file=True,
        streams=True,
    ),
    Peer(
        name="geoai-py",
        version="0.40.1",
        needs=("geopandas", "leafmap", "rioxarray", "matplotlib"),
        writes_file=True,
    ),
    Peer(name="pytorch-toolbelt", version="0.8.0", needs=("opencv-python-headless",)),
    Peer(name="MONAI", version="1.6.1", whole=True),
)
"""Those installed by themselves ask for torchvision, directly or through others. Its wheels need CUDA where there is
no build for a CPU, and nothing that is used here needs it."""


def python_of(folder: Path, peer: Peer) -> Path:
    """Give the interpreter of a tool's environment."""
    where = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    return folder / f"{peer.name.lower()}-{peer.version}" / where


def missing(folder: Path, peer: Peer) -> str | None:
    """Say why a tool cannot be run; None where it can."""
    failed = _failed(folder, peer)
    if failed.exists():
        return f"cannot be installed: {failed.read_text()}"
    return None if python_of(folder, peer).exists() else "not installed: python -m bench peers --install"


def install(folder: Path, peer: Peer) -> str:
    """Make a tool's environment, or bring it up to date; where that fails, the reason stays beside it.

    Returns
    -------
    str
        A line on how it went.
    """
    failed = _failed(folder, peer)
    failed.unlink(missing_ok=True)
    try:
        _make(python_of(folder, peer), peer)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = last_line(getattr(error, "stderr", "")) or str(error)
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(reason)
        return f"{peer.name} {peer.version}: cannot be installed: {reason}"
    return f"{peer.name} {peer.version}: installed {peer.how}"


def last_line(text: str, *, most: int | None = 160) -> str:
    """Give the end of what a program said, and of that line no more than `most`: there it says why it stopped."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:most] if lines else ""


def _failed(folder: Path, peer: Peer) -> Path:
    return folder / f"{peer.name.lower()}-{peer.version}.failed"


def _make(python: Path, peer: Peer) -> None:
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(python.parents[1]))
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    pinned = ("--constraint", str(CHECKOUT / "constraints.txt"))
    _run(*pip, *pinned, *_COMMON)  # first of all, or another build of torch comes with what asks for it
    _run(*pip, *pinned, *([] if peer.whole else ["--no-deps"]), f"{peer.name}=={peer.version}")
    if peer.needs:
        _run(*pip, *pinned, *peer.needs)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
