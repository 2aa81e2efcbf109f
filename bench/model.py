"""Model of scenes on other machines: stages as costs per pixel, limits as capacities. Arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from tabulate import tabulate

from bench.limits import BUS_DOWN, BUS_UP, DISK_READ, DISK_WRITE
from bench.stages import Stage

__all__ = [
    "Costs", "Machine", "Outcome", "costs_of", "loads", "machine_of", "of_batch", "of_scene", "slowed",
    "slowest_stage", "table_of",
]  # fmt: skip

PIXELS = 25_000 * 16_700
GPUS, CORES, NODES = (1, 4, 8), (16, 32, 64, 96), (1, 10)
_ON_CPU = (
    "read",
    "encode",
    "infer",
    "weight",
    "queue work (caller)",
    "blend",
    "write (caller)",
    "overviews",
    "compress",
)
_ONE_THREAD = ("queue work (caller)", "write (caller)", "blend")
"""Stages that one thread of a scene does."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one pixel of a scene needs."""

    cpu: Mapping[str, float]
    """CPU seconds a pixel, by stage."""
    gpu: float = 0.0
    """GPU seconds a pixel."""
    up: float = 0.0
    """Bytes a pixel to the GPU."""
    down: float = 0.0
    """Bytes a pixel from the GPU."""
    stored: float = 0.0
    """Bytes a pixel of the scene on the disk, as pixels: compression makes them fewer."""
    strips: float = 0.0
    """Bytes a pixel of the strips, written while windows run."""
    mosaic: float = 0.0
    """Bytes a pixel of the mosaic, written when it is assembled."""
    start: float = 0.0
    """Seconds before the sample: opening, engine."""
    sample: float = 0.0
    """Seconds a pixel of the sample."""
    finish: float = 0.0
    """Seconds a pixel after the last window: assembling, one thread."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Capacities of one node, and the number of nodes. Each node has a disk of its own."""

    cores: int
    gpus: int = 1
    nodes: int = 1
    disk_write: float = float("inf")
    """Bytes per second."""
    disk_read: float = float("inf")
    bus_up: float = float("inf")
    """Bytes per second to each GPU."""
    bus_down: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Time of some pixels."""

    seconds: float
    limit: str
    """Stage or device that takes longest."""


def loads(costs: Costs, machine: Machine, *, at_once: int = 1) -> dict[str, float]:
    """Return the seconds a pixel of windows of each device of a node that runs `at_once` scenes; the largest limits.

    Stages overlap, so a node takes as long as its busiest device: cores for the sum of all CPU work, one thread of
    each scene for a stage that has only one, disk, bus and GPU.
    """
    gpus = min(machine.gpus, at_once)
    found = {
        "cores": sum(costs.cpu.values()) / machine.cores,
        "GPU": costs.gpu / gpus,
        "bus up": costs.up / machine.bus_up / gpus,
        "bus down": costs.down / machine.bus_down / gpus,
        "disk read": costs.stored / machine.disk_read,
        "disk write": costs.strips / machine.disk_write,
    }
    return found | {stage: costs.cpu[stage] / at_once for stage in _ONE_THREAD if stage in costs.cpu}


def of_scene(costs: Costs, machine: Machine, pixels: float = PIXELS) -> Outcome:
    """Compute the time of one scene on one GPU of a node: start, sample, windows, assembling, one after another."""
    found = loads(costs, machine)
    phases = {
        "start": costs.start,
        "sample": costs.sample * pixels,
        slowest_stage(found): max(found.values()) * pixels,
        "assembling": _finish(costs, machine) * pixels,
    }
    return Outcome(seconds=sum(phases.values()), limit=slowest_stage(phases))


def of_batch(costs: Costs, machine: Machine, pixels: float = PIXELS) -> Outcome:
    """Compute the seconds between two finished scenes of a long batch.

    Each GPU has a worker with an engine that stays open; its scenes come one after another. Disk and cores of a node
    serve all of its workers.
    """
    alone = costs.sample + max(loads(costs, machine).values()) + _finish(costs, machine)
    found = loads(costs, machine, at_once=machine.gpus) | {
        "cores": (sum(costs.cpu.values()) + costs.sample + costs.finish) / machine.cores,
        "disk write": (costs.strips + costs.mosaic) / machine.disk_write,
        "phases of one worker": alone / machine.gpus,
    }
    return Outcome(seconds=max(found.values()) * pixels / machine.nodes, limit=slowest_stage(found))


def _finish(costs: Costs, machine: Machine) -> float:
    return max(costs.finish, costs.mosaic / machine.disk_write)


def slowed(windows: float, busy: float, *, sleep: float, calls: int, threads: int) -> float:
    """Predict the seconds of windows if each call of one stage also sleeps.

    Parameters
    ----------
    windows
        Seconds of windows without sleeping.
    busy
        Seconds that each thread of the stage is at work without sleeping.
    sleep, calls, threads
        Seconds a call, calls of the stage, and threads that share them.
    """
    rounds = -(-calls // threads)
    return max(windows, busy + sleep * rounds)


def slowest_stage(seconds: Mapping[str, float]) -> str:
    """Return the name of the largest value."""
    return max(seconds, key=lambda name: seconds[name])


def costs_of(stages: Sequence[Stage], pixels: int, *, gpu_seconds: float, moved: tuple[int, int]) -> Costs:
    """Turn the measured stages of a scene into costs per pixel.

    Parameters
    ----------
    stages
        Stages of a scene on the device path.
    pixels
        Pixels of the scene.
    gpu_seconds
        Seconds that the engine's work took on the GPU.
    moved
        Bytes to the GPU, and from it.
    """
    by_name = {stage.name: stage for stage in stages}
    assembled, sample = by_name["assemble"], by_name["sample"].per_thread
    return Costs(
        cpu={name: by_name[name].seconds / pixels for name in _ON_CPU if name in by_name},
        gpu=gpu_seconds / pixels,
        up=moved[0] / pixels,
        down=moved[1] / pixels,
        stored=by_name["read"].moved / pixels,
        strips=by_name["strips to disk"].moved / pixels,
        mosaic=assembled.moved / pixels,
        start=max(0.0, by_name["open, sample, start the engine"].seconds - sample),
        sample=sample / pixels,
        finish=assembled.seconds / pixels,
    )


def machine_of(limits: Mapping[str, float], *, cores: int, gpus: int, nodes: int) -> Machine:
    """Return a machine with the measured limits and another number of cores, GPUs and nodes."""
    names = {"disk_write": DISK_WRITE, "disk_read": DISK_READ, "bus_up": BUS_UP, "bus_down": BUS_DOWN}
    known = {field: limits[name] * 1e9 for field, name in names.items() if name in limits}
    return Machine(cores=cores, gpus=gpus, nodes=nodes, **known)


def table_of(costs: Costs, limits: Mapping[str, float]) -> str:
    """Tabulate the time of a scene and the rate of a batch by GPUs, cores and nodes."""
    rows = []
    for nodes, gpus, cores in product(NODES, GPUS, CORES):
        machine = machine_of(limits, cores=cores, gpus=gpus, nodes=nodes)
        one, many = of_scene(costs, machine), of_batch(costs, machine)
        rows.append([nodes, gpus, cores, f"{one.seconds:.2f}", one.limit, f"{3600 / many.seconds:.0f}", many.limit])
    head = ["nodes", "GPUs a node", "cores a node", "one scene, s", "limited by", "scenes an hour", "limited by"]
    text: str = tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True)
    return text
