"""Stages and the model of other machines, on made-up costs with known answers."""

from __future__ import annotations

import pytest

from bench.limits import DISK_READ, DISK_WRITE, disk_rates
from bench.model import Costs, Machine, costs_of, of_batch, of_scene, slowed, table_of
from bench.stages import ENGINE_ALONE, Stage, slowest, stage_table, with_engine_alone

COSTS = Costs(
    cpu={"read": 8e-9, "compress": 8e-9, "write (caller)": 1e-9}, gpu=2e-9, up=2.0, down=3.0, stored=2.0, strips=2.0,
    mosaic=2.0, start=1.0, sample=1e-9, finish=1e-9,
)  # fmt: skip
GIGA = 1e9


def test_a_scene_takes_its_phases_and_the_slowest_of_those_that_overlap():
    by_cores = of_scene(COSTS, Machine(cores=1), GIGA)
    assert (by_cores.seconds, by_cores.limit) == (pytest.approx(1 + 1 + 17 + 1), "cores")
    by_gpu = of_scene(COSTS, Machine(cores=17), GIGA)
    assert (by_gpu.seconds, by_gpu.limit) == (pytest.approx(1 + 1 + 2 + 1), "GPU")
    by_bus = of_scene(COSTS, Machine(cores=17, bus_down=1e9), GIGA)
    assert (by_bus.seconds, by_bus.limit) == (pytest.approx(1 + 1 + 3 + 1), "bus down")
    by_disk = of_scene(COSTS, Machine(cores=17, disk_write=1e8), GIGA)
    assert (by_disk.seconds, by_disk.limit) == (pytest.approx(1 + 1 + 20 + 20), "disk write")
    more_gpus = of_scene(COSTS, Machine(cores=17, gpus=8), GIGA)
    assert more_gpus.seconds == pytest.approx(by_gpu.seconds)  # one scene runs on one GPU


def test_a_batch_shares_cores_and_disk_and_multiplies_gpus_and_nodes():
    one = of_batch(COSTS, Machine(cores=1000), GIGA)
    assert (one.seconds, one.limit) == (pytest.approx(1 + 2 + 1), "phases of one worker")
    assert of_batch(COSTS, Machine(cores=1000, gpus=4), GIGA).seconds == pytest.approx(1)
    cores = of_batch(COSTS, Machine(cores=19, gpus=8), GIGA)
    assert (cores.seconds, cores.limit) == (pytest.approx(1), "cores")  # 17 + 1 + 1 seconds of CPU
    disk = of_batch(COSTS, Machine(cores=1000, gpus=8, disk_write=2e9), GIGA)
    assert (disk.seconds, disk.limit) == (pytest.approx(2), "disk write")
    assert of_batch(COSTS, Machine(cores=1000, gpus=8, nodes=10, disk_write=2e9), GIGA).seconds == pytest.approx(0.2)


def test_the_table_has_a_line_for_each_machine():
    lines = table_of(COSTS, {DISK_WRITE: 1.0}).splitlines()
    assert len(lines) == 1 + 2 * 3 * 4
    assert lines[1].split()[:3] == ["1", "1", "16"]


def test_a_slowed_stage_takes_its_sleep_where_it_is_the_slowest():
    assert slowed(1.0, 0.2, sleep=0.1, calls=4, threads=1) == 1.0
    assert slowed(1.0, 0.2, sleep=0.5, calls=4, threads=1) == pytest.approx(2.2)
    assert slowed(1.0, 0.2, sleep=0.5, calls=5, threads=2) == pytest.approx(1.7)


STAGES = [
    Stage(name="open, sample, start the engine", seconds=3.0),
    Stage(name="sample", seconds=4.0, threads=2, moved=100),
    Stage(name="read", seconds=8.0, threads=4, moved=2000, limit=DISK_READ),
    Stage(name="engine", seconds=1.0, moved=500, limit=ENGINE_ALONE),
    Stage(name="compress", seconds=16.0, threads=4, moved=4000),
    Stage(name="strips to disk", seconds=2.0, threads=2, moved=1500, limit=DISK_WRITE),
    Stage(name="assemble", seconds=1.0, moved=1600, limit=DISK_WRITE),
]


def test_measured_stages_become_costs_of_a_pixel():
    costs = costs_of(STAGES, 1000, gpu_seconds=2.0, moved=(2000, 3000))
    assert costs.cpu == {"read": 0.008, "compress": 0.016}
    assert (costs.gpu, costs.up, costs.down) == (0.002, 2.0, 3.0)
    assert (costs.stored, costs.strips, costs.mosaic) == (2.0, 1.5, 1.6)
    assert (costs.start, costs.sample, costs.finish) == (1.0, 0.002, 0.001)


def test_the_slowest_stage_is_the_one_whose_threads_work_longest():
    assert slowest(STAGES, 8.0) == "slowest stage: compress, 4.00 s of 8.00 s a thread (50%, 4 threads)"


def test_stages_are_shares_of_the_scene_and_of_their_limits():
    giga = [Stage(name="read", seconds=8.0, threads=4, moved=4 * 10**9, limit=DISK_READ), STAGES[0]]
    _, read, opening = stage_table(giga, {DISK_READ: 4.0}, 8.0).splitlines()
    assert read.split() == ["read", "4", "4", "2", "25%", "2", "50%", "4", "(disk", "read)"]
    assert opening.split()[-7:] == ["-", "1", "3", "38%", "-", "-", "-"]
    assert with_engine_alone(STAGES, 2.0) == {ENGINE_ALONE: 250 / 1e9}
    assert with_engine_alone(STAGES, None) == {}


def test_the_disk_is_measured_and_left_as_it_was(tmp_path):
    found = disk_rates(tmp_path / "x", 2**20)
    assert set(found) == {DISK_WRITE, DISK_READ}
    assert min(found.values()) > 0
    assert list(tmp_path.iterdir()) == []
