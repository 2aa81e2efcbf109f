"""Benches run and record what they measured; no test depends on a speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from bench import candidates, compare, engines, methods, training
from bench.__main__ import COMMANDS, main
from bench.generators import bundled_checkpoint, fresh_checkpoint, work_of
from bench.harness import Record, Row, load, one_line, save, take_turns
from bench.machine import Machine, versions
from sar2optical.engines import open_engine
from sar2optical.engines.registry import bundled
from sar2optical.pipeline.flow import STAGES

ROOT = Path(__file__).parents[2]


def bench(name, tmp_path, *options):
    """Run a bench from the command line; return its output and its record."""
    out = tmp_path / f"{name}.json"
    command = [sys.executable, "-m", "bench", name, "--quick", "--json", str(out), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout, load(out)


def test_engines_are_compared_with_the_reference_baseline_and_with_the_ceiling(tmp_path):
    output, record = bench("engines", tmp_path, "--only", "openvino", "--threads", "1")
    assert record.rows[0].name == candidates.REFERENCE
    assert record.machine.cores >= 1
    assert {"fp32", "int8"} <= {name.split()[0] for name in record.ceilings}
    measured = {(row.labels["backend"], row.labels["precision"]): row for row in record.rows[1:] if not row.trouble}
    assert measured.keys() >= {("openvino", "fp32"), ("openvino", "int8")}
    for row in measured.values():
        assert row.samples[0] > 0
        assert row.name in output
        assert row.figures["share_of_matmul"] > 0
        assert row.figures["latency_ms"]["median"] <= row.figures["latency_ms"]["p99"]
    assert "psnr_min_db" not in measured["openvino", "fp32"].figures  # the others are compared with it
    assert record.rows[0].figures["psnr_min_db"] > 90
    assert 30 < measured["openvino", "int8"].figures["psnr_min_db"] < 90


def test_scenes_are_compared_with_the_engine_alone_and_a_plain_copy(tmp_path):
    output, record = bench("scene", tmp_path, "--threads", "1")
    assert {row.labels["way"] for row in record.rows} == set(methods.METHODS)
    ours = [row for row in record.rows if row.labels["way"] == methods.OURS]
    assert [row.figures["windows"] for row in ours] == [3, 9]  # 256 x 512 and 512 x 512, windows that share 64
    for row in ours:
        assert record.base(row) == row.name.replace(methods.OURS, methods.ENGINE)
        assert row.figures["seconds"] >= row.figures["seconds_windows"] + row.figures["seconds_mosaic"]
        assert set(row.figures["idle"]) == set(STAGES)
    assert set(record.series["growth_exponent"]) == set(methods.METHODS) - {methods.ENGINE}
    assert "512 x 512, ours" in output
    assert record.ceilings["disk write, GB/s"] > 0
    assert output.count("slowest stage: ") == 4  # of the generator and of one that does nothing, in two sizes
    assert ours[1].figures["stages"][-1]["name"] == "assemble"


def test_training_is_compared_with_the_reference_step(tmp_path):
    _, record = bench("training", tmp_path, "--threads", "1", "--no-bf16")
    assert record.rows[0].name.startswith(training.REFERENCE)
    assert {row.labels["way"] for row in record.rows} >= {"reference", "contiguous", "channels last"}
    for row in record.rows:
        assert row.trouble is None
        assert row.samples[0] > 0
        assert record.base(row) == record.rows[0].name


def test_the_demos_scene_needs_only_the_base_packages(tmp_path):
    """`make demo` installs only the packages that translate a scene."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'openvino', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from sar2optical.cli.data import main\n"
        f"main(['simulate', {str(tmp_path / 'scene.tif')!r}, '--size', '300', '200'])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)
    with rasterio.open(tmp_path / "scene.tif") as drawn:
        assert drawn.shape == (300, 200)


def test_every_bench_has_its_command():
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(f"  {name} " in output for name in COMMANDS)
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2


def test_the_bundled_generator_in_pytorch_is_the_bundled_generator(tmp_path):
    sar = np.random.default_rng(0).uniform(-1, 1, (1, 1, 256, 256)).astype(np.float32)
    with open_engine(bundled(), backend="onnxruntime") as engine:
        expected = engine.run(sar)
    assert expected.std() > 0.05
    for channels in (1, 3):
        with open_engine(bundled_checkpoint(tmp_path / f"{channels}.pth", channels=channels)) as engine:
            found = engine.run(np.repeat(sar, channels, axis=1))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_work_of_the_references_generator_is_the_known_one(tmp_path):
    """54.5 M parameters, 16.4 GFLOP with one input channel; two more channels add 0.1."""
    sar = np.zeros((2, 1, 256, 256), np.float32)
    work = work_of(fresh_checkpoint(tmp_path / "seed.pth", 64, sar))
    assert work.flop == pytest.approx(16.5e9, rel=0.02)
    assert work.weights == pytest.approx(54.5e6, rel=0.01)
    assert work.least_bytes("bf16", 4) == 2 * (work.activations + work.weights / 4)


def test_candidates_take_turns():
    order, lines = [], []

    def measure(name, number):
        order.append(name)
        if name == "fails":
            raise OSError("/tmp/x.onnx: broken")
        return f"{name}{number}"

    turns = {name: partial(measure, name) for name in ("a", "fails", "b")}
    samples, failures = take_turns(turns, 2, on_progress=lines.append)
    assert order == ["a", "fails", "b", "a", "b"]
    assert samples == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert failures == {"fails": "x.onnx: broken"}
    assert lines[:3] == ["round 1/2: a: a0", "left out: fails (x.onnx: broken)", "round 1/2: b: b0"]


def test_latencies_and_rate_are_of_the_same_runs():
    def run(_):
        calls.append(1)

    calls: list[int] = []
    rate, latencies = engines.timed(run, np.zeros((4, 1, 1, 1), np.float32), streams=3, seconds=0, iterations=4)
    assert len(latencies) == 6  # a multiple of the streams, after three to warm up
    assert len(calls) == 9
    assert rate > 0


def test_a_line_of_an_error_has_no_folder():
    assert one_line(OSError("/tmp/a-b/c.onnx: does not\n open, see /usr/x")) == "c.onnx: does not open, see x"
    assert one_line(ValueError("1/2 or a/b")) == "1/2 or a/b"


MACHINE = Machine(cpu="AMD EPYC", cores=2, instructions="avx512-bf16", memory_gb=8.0)


def test_a_kind_of_machine_has_a_name():
    assert MACHINE.slug == "epyc-avx512-bf16"
    assert replace(MACHINE, cpu="Intel(R) Xeon(R) Processor", instructions="amx").slug == "xeon-amx"
    assert replace(MACHINE, gpu="NVIDIA H200, driver 580").slug == "h200"
    assert MACHINE.title == "AMD EPYC, 2 cores"
    assert versions()["numpy"] == np.__version__


def guarded(**speeds):
    rows = [Row(name="base", unit="x/s", samples=(10.0,) * 5)]
    rows += [Row(name=name, unit="x/s", samples=(speed,) * 5) for name, speed in speeds.items()]
    return Record(bench="guard", rows=tuple(rows), settings={}, machine=MACHINE, versions={}, commit="", taken="")


def test_the_guard_fails_if_a_ratio_has_fallen(monkeypatch, tmp_path):
    def run(now, before):
        save(before, tmp_path / "committed.json")
        monkeypatch.setattr(compare, "guard_record", lambda **_: now)
        monkeypatch.setattr(compare, "this_machine", lambda: MACHINE)
        ended = CliRunner().invoke(compare.guard, ["--against", str(tmp_path / "committed.json")])
        return ended.exit_code, ended.output.splitlines()[-1]

    committed = guarded(fast=20.0, slow=5.0)
    assert run(guarded(fast=17.5, slow=50.0), committed) == (0, "largest loss: -12.5% (fast), within 15%")
    assert run(guarded(fast=16.5, slow=5.0), committed) == (1, "largest loss: -17.5% (fast), more than 15%")
    assert run(guarded(other=1.0), committed) == (
        1,
        f"Error: {tmp_path / 'committed.json'}: fast, slow no longer run: give --update to replace the record",
    )
    code, line = run(guarded(), guarded())
    assert code == 1
    assert "no row except the base row was measured in both" in line


def test_the_guard_names_the_remedy_without_a_committed_record(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "bench", "guard", "--against", str(tmp_path / "none.json")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"Error: {tmp_path / 'none.json'} does not exist for this kind of machine: give --update to make it"
    ]


def test_the_committed_pages_are_up_to_date():
    result = subprocess.run(
        [sys.executable, "-m", "bench", "report", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_committed_results_are_of_this_format_and_name_no_folder():
    found = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert found
    for path in found:
        record = load(path)
        assert all(math.isfinite(sample) for row in record.rows for sample in row.samples), path
        assert "/tmp/" not in path.read_text(), path
        json.dumps(record.settings)
