"""Damaged copies of rasters, the same for the same seed, and what the command makes of each.

::

    python -m tests.damage SCENES_DIR --count 300 --seed 5

One process takes them all, one after another, so that libraries are imported once; it is killed when it hangs, and
another goes on when it dies.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HANG = 30
"""Seconds after which a run counts as hanging."""

MEMORY = 6_000_000_000
"""Bytes of addresses that the process may have: a bomb shall be told from a damaged file, and harm nobody."""

_EDGE = 4096
"""Bytes at both ends of a file where its directories are."""


# Damage


@dataclass(frozen=True)
class Damage:
    """What is done to one copy of a file."""

    number: int
    source: Path
    kind: str
    size: int
    """Bytes that are left of it."""
    patches: tuple[tuple[int, bytes], ...]
    """Places, and what is there instead."""

    def __str__(self) -> str:
        places = ", ".join(
            f"{at}+{len(put)}" if len(put) > 8 else f"{at}:{put.hex()}" for at, put in self.patches[:6]
        )
        return f"#{self.number} {self.kind} of {self.source.name} (to {self.size} bytes; {places or 'no patch'})"

    def write(self, path: Path) -> None:
        """Write the damaged copy."""
        data = bytearray(self.source.read_bytes()[: self.size])
        for at, put in self.patches:
            data[at : at + len(put)] = put
        path.write_bytes(data)


def damaged(sources: Sequence[Path], count: int, seed: int) -> Iterator[Damage]:
    """Think up damage: cuts, flipped bytes (one, many, in a directory), zeroed ranges and ranges of noise."""
    rng = np.random.default_rng(seed)
    weights = np.array([_weight(source) for source in sources])
    kinds = list(_KINDS)
    shares = np.array([share for share, _ in _KINDS.values()])
    for number in range(count):
        source = sources[rng.choice(len(sources), p=weights / weights.sum())]
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        data = source.read_bytes()
        size, patches = _KINDS[kind][1](rng, data)
        yield Damage(number, source, kind, size, tuple(patches))


def _weight(source: Path) -> float:
    """Take one of 100 Mpx seldom: it takes seconds even where nothing is wrong."""
    return 0.1 if "100mpx" in str(source.parent) else 1.0


_Patches = list[tuple[int, bytes]]


def _cut(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    ends = (0, 201), (0, len(data)), (max(len(data) - 200, 0), len(data))
    return int(rng.integers(*ends[rng.integers(len(ends))])), []


def _flip_one(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    return len(data), _flips(rng, data, range(len(data)), 1)


def _flip_many(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    return len(data), _flips(rng, data, range(len(data)), int(rng.integers(2, 200)))


def _flip_at_ends(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    edge = min(_EDGE, len(data))
    part = range(edge) if rng.random() < 0.5 else range(len(data) - edge, len(data))
    return len(data), _flips(rng, data, part, int(rng.integers(1, 9)))


def _flip_in_directory(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    return len(data), _flips(rng, data, _directory(data), int(rng.integers(1, 4)))


def _zeros(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    at, length = _range(rng, data)
    return len(data), [(at, bytes(length))]


def _noise(rng: np.random.Generator, data: bytes) -> tuple[int, _Patches]:
    at, length = _range(rng, data)
    return len(data), [(at, rng.bytes(length))]


_KINDS: dict[str, tuple[float, Callable[[np.random.Generator, bytes], tuple[int, _Patches]]]] = {
    "cut": (0.15, _cut),
    "one byte flipped": (0.1, _flip_one),
    "bytes flipped": (0.1, _flip_many),
    "bytes flipped near an end": (0.2, _flip_at_ends),
    "bytes flipped in a directory": (0.25, _flip_in_directory),
    "zeros": (0.1, _zeros),
    "noise": (0.1, _noise),
}
"""How often, and what."""


def _flips(rng: np.random.Generator, data: bytes, part: range, count: int) -> _Patches:
    """Flip one bit, or any of a byte's, at some places of a part."""
    places = rng.choice(part, size=min(count, len(part)), replace=False)
    one_bit = rng.random() < 0.5
    masks = (1 << int(rng.integers(8)) if one_bit else int(rng.integers(1, 256)) for _ in places)
    return [(int(at), bytes([data[at] ^ mask])) for at, mask in zip(places, masks, strict=True)]


def _range(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    """Give start and length of a range: as often short as long."""
    length = int(np.exp(rng.uniform(0, np.log(max(len(data) / 3, 2)))))
    return int(rng.integers(len(data) - length + 1)), length


def _directory(data: bytes) -> range:
    """Give the bytes of a TIFF's first directory, or of a zip's list of files; else the first hundred."""
    if data[:2] in (b"II", b"MM"):
        order = "<" if data[:2] == b"II" else ">"
        (start,) = struct.unpack(f"{order}I", data[4:8])
        (entries,) = struct.unpack(f"{order}H", data[start : start + 2])
        return range(start, min(start + 2 + 12 * entries + 4, len(data)))
    at = data.find(b"PK\x01\x02")
    return range(at, len(data)) if at >= 0 else range(min(100, len(data)))


# Runs


@dataclass(frozen=True)
class Outcome:
    """What the command made of a damaged file."""

    damage: Damage
    arguments: tuple[str, ...]
    made: bool
    """A whole mosaic; False: refused, or a violation."""
    seconds: float
    said: str
    """On stderr."""
    violations: tuple[str, ...]


class Runner:
    """Runs `sar2opt-scene` on damaged files in another process; a context manager.

    Parameters
    ----------
    model
        A cheap one.
    folder
        For what is written meanwhile.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._stderr = folder / "stderr.txt"
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.join(HANG)
        self._end()

    def run(self, damage: Damage, arguments: Sequence[str] = ()) -> Outcome:
        """Make the damaged file, run the command on it, look at what it leaves, and clear it away."""
        case = self._folder / "case"
        case.mkdir()
        path, out = case / damage.source.name, case / "out.tif"
        damage.write(path)
        cheap = ("--model", str(self._model), "--backend", "onnxruntime", "--threads", "1")
        command = [str(path), str(out), *arguments, *cheap, "--compress", "none", "--overlap", "0", "--quiet"]
        began = time.perf_counter()
        code, problem = self._ask(command)
        seconds = time.perf_counter() - began
        said = self._stderr.read_text(errors="replace")
        violations = [problem] if problem else []
        if not problem:
            violations += _judge(code, said, case, {path.name, out.name, f"{out.name}.parts"})
        if out.exists() and (flaw := self.why_not_whole(out, None if "--geocode" in arguments else path)):
            violations.append(f"OUT is no whole mosaic: {flaw}")
        made = code == 0 and not violations
        shutil.rmtree(case)
        return Outcome(damage, tuple(arguments), made, seconds, said, tuple(violations))

    def why_not_whole(self, out: Path, source: Path | None = None) -> str:
        """Say what of a mosaic does not decode, or differs in size from its source; "" where it is whole."""
        answer, problem = self._send("whole", [str(out), *([str(source)] if source else [])])
        return problem or str(answer)

    def _ask(self, command: list[str]) -> tuple[int | None, str]:
        """Give the exit code of a command, or what is wrong where there is none."""
        answer, problem = self._send("command", command)
        return (None, problem) if problem else (int(answer), "")

    def _send(self, what: str, arguments: list[str]) -> tuple[Any, str]:
        if self._process is None:
            self._begin()
        try:
            self._pipe.send((what, arguments))
            if not self._pipe.poll(HANG):
                self._end()
                return None, f"hangs for more than {HANG} s"
            return self._pipe.recv(), ""
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._end()
            return None, f"dies of {signal.Signals(-code).name if code < 0 else f'exit {code}'}"

    def _begin(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # no thread and no lock of this process goes along
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._stderr), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _judge(code: int | None, said: str, folder: Path, allowed: set[str]) -> list[str]:
    """Say what a user must never see."""
    found = []
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if "Traceback (most recent call last)" in said:
        last = [line for line in said.splitlines() if line not in errors][-1]
        found.append(f"traceback: {last}")
    elif code not in (0, 1):
        found.append(f"exit {code}")
    elif len(errors) != code:
        found.append(f"exit {code} with {len(errors)} lines that tell an error")
    elif code == 1 and not (folder / "out.tif.parts").exists() and (folder / "out.tif").exists():
        found.append("refused, with a file at OUT")
    # Warnings of ours name the scene; anything else is some library's.
    strange = [line for line in said.splitlines() if line not in errors and not line.startswith(tuple(allowed))]
    if strange and not found:
        found.append(f"says what is not ours: {strange[0]}")
    if left := {path.name for path in folder.iterdir()} - allowed:
        found.append(f"leaves {', '.join(sorted(left))}")
    if code == 0 and not (folder / "out.tif").exists():
        found.append("exit 0 without a file at OUT")
    if code == 0 and (folder / "out.tif.parts").exists():
        found.append("exit 0, and the strips are still there")
    return found


# In the process that runs them


def _serve(pipe: Any, stderr: Path) -> None:
    """Take commands until the other end is gone."""
    _limit_memory()
    target = os.open(stderr, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    faulthandler.enable()
    from sar2optical.cli.scene import main

    pipe.send("ready")
    while True:
        try:
            what, arguments = pipe.recv()
        except EOFError:
            return
        if what == "whole":
            pipe.send(_why_not_whole(*map(Path, arguments)))
            continue
        os.ftruncate(target, 0)
        code: Any = 0
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(code)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _why_not_whole(out: Path, source: Path | None = None) -> str:
    """Decode all of a mosaic, overviews and masks too; "" where it is whole and as large as its source."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with rasterio.open(out) as mosaic:
                shape, levels = mosaic.shape, len(mosaic.overviews(1))
            for level in range(-1, levels):
                which = {"overview_level": level} if level >= 0 else {}
                with rasterio.open(out, **which) as mosaic:
                    if mosaic.count != 3:
                        return f"{mosaic.count} bands"
                    mosaic.read()
                    mosaic.dataset_mask()
            if source is None or source.suffix == ".zip":
                return ""
            with rasterio.open(source) as scene:
                return "" if scene.shape == shape else f"{shape} of {scene.shape}"
        except Exception as error:
            return repr(error)


# Real scenes


def real_sources(scenes: Path, folder: Path) -> list[Path]:
    """Gather rasters under a folder, and make a small product, as real ones come without measurements."""
    from tests.scene.test_safe import make_product, zipped

    rasters = sorted(path for path in scenes.rglob("*.tif*") if "S2RGB" not in path.parts)
    chips = sorted((scenes.parent / "pairs_volkov").glob("*/s1/*.png"))
    return [*rasters, *chips[:: max(len(chips) // 4, 1)], zipped(make_product(folder))]


def what_the_file_does_not_tell(path: Path, number: int) -> tuple[str, ...]:
    """Give the options that a whole file of these needs; every other time the unit, so that damage gets further."""
    if path.suffix == ".zip":
        return ("--denoise",) if number % 2 else ()
    if "SIG0" in path.name:
        return ("--band", "1", "--units", "db", "--scale", "0.01")
    band = () if "VH" in path.name.upper() or "Hand" in path.name else ("--band", "1")
    unit = "power" if "RTC-S1" in path.name else "amplitude" if path.suffix == ".png" else "db"
    if path.name.startswith("iw-"):
        unit = "dn"
    return (*band, "--units", unit) if number % 2 else band


def run_all(
    sources: Sequence[Path],
    count: int,
    seed: int,
    *,
    model: Path,
    folder: Path,
    options: Callable[[Path, int], tuple[str, ...]],
) -> Iterator[Outcome]:
    """Run the command on every damaged file."""
    with Runner(model, folder) as runner:
        for damage in damaged(sources, count, seed):
            yield runner.run(damage, options(damage.source, damage.number))


def main() -> int:
    """Print a table of outcomes, and every violation; gives the exit code."""
    from tests.conftest import BYTES, make_identity

    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--geocode", action="store_true", help="bring each to a map")
    parser.add_argument("--only", type=int, help="this number alone, with what it says")
    asked = parser.parse_args()

    def options(path: Path, number: int) -> tuple[str, ...]:
        place = ("--geocode", "auto-utm") if asked.geocode else ()
        return (*what_the_file_does_not_tell(path, number), *place)

    counts: dict[str, Counter[str]] = {}
    slowest, violations, began = 0.0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SAR2OPT_CACHE"] = str(folder / "cache")
        sources = real_sources(asked.scenes, folder)
        model = make_identity(folder / "identity.onnx", BYTES)
        with Runner(model, folder) as runner:
            for damage in damaged(sources, asked.count, asked.seed):
                if asked.only not in (None, damage.number):
                    continue
                outcome = runner.run(damage, options(damage.source, damage.number))
                slowest = max(slowest, outcome.seconds)
                result = "violation" if outcome.violations else "made" if outcome.made else "refused"
                counts.setdefault(damage.kind, Counter())[result] += 1
                for violation in outcome.violations:
                    violations += 1
                    print(f"{damage}\n  {' '.join(outcome.arguments)}\n  {violation}")
                if asked.only is not None:
                    print(f"{damage}\n{outcome.said}")
    results = ("made", "refused", "violation")
    print(f"{'':<30}" + "".join(f"{result:>10}" for result in results))
    for kind, found in sorted(
        {**counts, "all": sum(counts.values(), Counter())}.items(), key=lambda x: x[0] == "all"
    ):
        print(f"{kind:<30}" + "".join(f"{found[result]:>10}" for result in results))
    print(f"seed {asked.seed}: {time.perf_counter() - began:.0f} s, the longest {slowest:.1f} s")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
