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


def install(folder: Path, peer: Peer) -> None:
    """Make a tool's environment; one that is there is brought up to date.

    Raises
    ------
    subprocess.CalledProcessError
        Where pip does not succeed; its words are in `stderr`.
    """
    python = python_of(folder, peer)
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(python.parents[1]))
    # First of all, or another build of torch comes with what asks for it.
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    pinned = ("--constraint", str(CHECKOUT / "constraints.txt"))
    _run(*pip, *pinned, *_COMMON)
    _run(*pip, *pinned, *([] if peer.whole else ["--no-deps"]), f"{peer.name}=={peer.version}")
    if peer.needs:
        _run(*pip, *pinned, *peer.needs)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
