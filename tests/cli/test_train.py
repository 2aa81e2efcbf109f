"""`sar2opt-train`: killed, interrupted, on full disks and with wrong data."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from sar2optical.cli.evaluate import main as eval_main
from sar2optical.cli.train import main as train_main
from sar2optical.data import optical
from sar2optical.data.splits import read_split
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.models.checkpoint import load_generator
from sar2optical.models.generator import build_generator
from sar2optical.models.wide import zero_unused_taps
from sar2optical.training import loop
from sar2optical.training.seed_config import read_settings
from tests.cli.test_cli import BIN, assert_refused, command, here
from tests.conftest import UTM, speckle

pytestmark = pytest.mark.usefixtures("no_graphs")

TINY = "--batch 2 --base-channels 2 --discriminator-channels 2 --threads 1 --precision fp32".split()


def write_pairs(folder, count=4, size=256, name="{:03d}.png"):
    for half, bands in (("s1", 1), ("s2", 3)):
        (folder / half).mkdir(parents=True)
        for k in range(count):
            pixels = np.stack([speckle((size, size), seed=9 * k + b) for b in range(bands)])
            path = folder / half / name.format(k).replace("_s1_", f"_{half}_")
            with rasterio.open(path, "w", driver="PNG", width=size, height=size, count=bands, dtype="uint8") as chip:
                chip.write(pixels)
    return folder


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


def train(*args):
    return here(train_main, *args, *TINY)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pairs_become_a_generator_that_translates(pairs, tmp_path, make_raster, monkeypatch):
    monkeypatch.undo()  # of no_graphs: a whole run
    out = tmp_path / "run"
    result = train(pairs, out, "--steps", 2, "--val-data", pairs, "--name", "first", "--band", "VH")
    assert result.returncode == 0, result.stderr
    assert f"{out / 'generator.pth'}: 2 steps in fp32, PSNR" in result.stdout
    mosaic = tmp_path / "out.tif"
    scene = make_raster(speckle((300, 300)), descriptions=["VH"], **UTM)
    translated = command("sar2opt-scene", scene, mosaic, "--model", out / "generator.pth")
    assert translated.returncode == 0, translated.stderr
    assert "first with pytorch" in translated.stdout


def test_scenes_are_held_out_and_the_settings_are_kept(tmp_path, monkeypatch, caplog):
    pairs = write_pairs(tmp_path / "pairs", 4, name="ROIs1970_fall_s1_13_p{}.png")
    write_pairs(tmp_path / "more", 2, name="ROIs1970_fall_s1_27_p{}.png").rename(pairs / "other")
    out, labels = tmp_path / "run", []
    monkeypatch.setattr(loop, "picture", lambda rows, title: labels.append([row.label for row in rows]) or b"")
    result = train(pairs, out, "--steps", 2, "--eval-every", 1)
    assert result.returncode == 0, result.stderr
    assert "2 of 6 pairs are held out for validation" in caplog.text
    split = read_split(out / "split.json")
    assert set(split.val) == {f"other/s1/ROIs1970_fall_s1_27_p{k}.png" for k in (0, 1)}
    assert len(split.train) == 4
    assert labels[0] == ["ROIs1970_fall_s1_27_p0", "ROIs1970_fall_s1_27_p1"]
    assert f"{out / 'best.pth'}: PSNR" in result.stdout
    settings = read_settings(out / "args.yaml")
    assert settings.config["base_channels"] == settings.config["discriminator_channels"] == 2
    assert settings.options["eval_every"] == 1
    again = here(train_main, pairs, tmp_path / "again", "--config", out / "args.yaml")
    assert again.returncode == 0, again.stderr
    assert sha256(tmp_path / "again" / "generator.pth") == sha256(out / "generator.pth")
    whole = train(pairs, tmp_path / "whole", "--steps", 1, "--val-fraction", 0)
    assert "PSNR" not in whole.stdout
    assert not (tmp_path / "whole" / "split.json").exists()


def test_a_resumed_run_holds_out_the_same_pairs(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 2, name="ROIs1970_fall_s1_13_p{}.png")
    for scene in (27, 31, 44):
        write_pairs(tmp_path / "more", 2, name=f"ROIs1970_fall_s1_{scene}_p{{}}.png").rename(pairs / str(scene))
    out, steps = tmp_path / "run", ("--steps", 2, "--decay-from", 1)
    further = ("--steps", 3, "--decay-from", 1)
    assert train(pairs, out, *steps, "--val-fraction", 0.25).returncode == 0
    split = (out / "split.json").read_bytes()
    other = train(pairs, out, *further, "--val-fraction", 0.5)
    assert other.returncode == 1
    assert f"give --split {out / 'split.json'} to resume" in other.stderr
    assert (out / "split.json").read_bytes() == split
    assert train(pairs, out, *further, "--split", out / "split.json").returncode == 0
    # A new run in the folder does not leave the split and the best generator of the old one.
    assert train(pairs, out, *steps, "--val-fraction", 0, "--restart").returncode == 0
    assert not {"split.json", "best.pth"} & {path.name for path in out.iterdir()}
    begun = train(pairs, out, *further)
    assert begun.returncode == 1
    assert "begun without pairs held out" in begun.stderr


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_weights_of_one_that_was_not(pairs, tmp_path):
    """Kill each run at a random moment after its first save."""
    steps = ["--steps", "30", "--save-every", "1", "--no-tensorboard"]
    assert train(pairs, tmp_path / "whole", *steps).returncode == 0
    expected = sha256(tmp_path / "whole" / "generator.pth")
    rng, out, killed = random.Random(1), tmp_path / "killed", 0
    arguments = [BIN / "sar2opt-train", pairs, out, *TINY, *steps, "-q"]
    for _ in range(2):
        before = (out / "state.pth").stat().st_mtime_ns if (out / "state.pth").exists() else 0
        started = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while not (out / "state.pth").exists() or (out / "state.pth").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            if started.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        started.kill()
        killed += started.wait(60) == -signal.SIGKILL
    assert killed >= 1
    assert train(pairs, out, *steps).returncode == 0
    assert sha256(out / "generator.pth") == expected
    with (out / "metrics.csv").open() as file, (tmp_path / "whole" / "metrics.csv").open() as other:
        tables = [[(row["step"], row["loss_D"]) for row in csv.DictReader(f)] for f in (file, other)]
    assert tables[0] == tables[1]


def test_ctrl_c_saves_and_explains_how_to_resume(pairs, tmp_path):
    out = tmp_path / "run"
    steps = ["--steps", "5000", "--save-every", "2000", "--no-tensorboard"]
    arguments = [BIN / "sar2opt-train", pairs, out, *TINY, *steps]
    started = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (out / "metrics.csv").exists():
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.01)
    assert torch.load(out / "state.pth", weights_only=True)["step"] == 0
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "saved at step" in stderr
    assert "Traceback" not in stderr
    assert torch.load(out / "state.pth", weights_only=True)["step"] > 0


def test_the_seeds_configuration_is_accepted_as_it_is(tmp_path):
    pairs = write_pairs(tmp_path / "agri", 10, name="ROIs1970_fall_s1_13_p{}.png").parent
    config = tmp_path / "config.yaml"
    config.write_text(
        "inference: {image_path: a.jpg, output_path: b.jpg, gen_checkpoint: pix2pix_gen_180.pth, device: cpu}\n"
        "export: {gen_checkpoint: pix2pix_gen_180.pth, export_path: o.onnx, export_format: onnx, is_dynamic: true,\n"
        "  input_shape: [1, 3, 256, 256], onnx: {opset_version: 17}}\n"
        "dataset: {root_dir: ./data/v_2/, split_mode: random, split_ratio: [0.6, 0.2, 0.2], split_file: null,\n"
        "  seed: 42, shuffle: true}\n"
        "model: {c_in: 3, c_out: 3, netD: patch, lambda_L1: 50.0, is_CGAN: true, use_upsampling: true,\n"
        "  mode: bilinear, c_hid: 2, n_layers: 2}\n"
        "training: {num_epochs: 1, batch_size: 2, lr: 0.0002, beta1: 0.5, beta2: 0.999, use_validation: true,\n"
        "  save_freq: 5, eval_freq: 5, resume: false, resume_epoch: 0, gen_checkpoint: null, disc_checkpoint: null,\n"
        "  checkpoint_dir: ./models/checkpoints, results_dir: ./models/results, device: cpu, num_workers: 1}\n"
        "logging:\n  comet: {enabled: false, project: pix2pix, name: null, entity: null}\n"
    )
    out = tmp_path / "run"
    result = here(train_main, pairs, out, "--config", config, "--base-channels", 2, "--threads", 1)
    assert result.returncode == 0, result.stderr
    state = torch.load(out / "state.pth", weights_only=True)
    expected = {"l1_weight": 50.0, "upsampling": "bilinear", "discriminator_layers": 2, "ema_decay": 0.0,
                "crop": False, "decay_from": 1.0, "precision": "fp32"}  # fmt: skip
    assert {key: state["config"][key] for key in expected} == expected
    assert state["steps"] == 3  # 6 of 10 pairs, 2 a step
    assert json.loads(state["signature"])["channels"] == 3


def test_unknown_settings_are_refused(pairs, tmp_path):
    for text, said in [
        ("model: {netD: patch, lambda_L2: 3}", "did you mean model.lambda_L1"),
        ("l1_wieght: 3", "did you mean l1_weight"),
        ("logging: {comet: {enable: true}}", "did you mean logging.comet.enabled"),
        ("a: [", "not a YAML file"),
        ("", "not settings"),
        ("model: 3", "section model is 3"),
        ("objective: wgan", "vanilla or lsgan or hinge"),
        ("training: {device: cuda}", "--device cpu"),
    ]:
        if "cuda" in text and torch.cuda.is_available():
            continue
        (tmp_path / "config.yaml").write_text(text)
        result = train(pairs, tmp_path / "run", "--config", tmp_path / "config.yaml", "--steps", 1)
        assert_refused(result, 1, said)
    assert_refused(
        train(pairs, tmp_path / "run", "--config", tmp_path / "none.yaml"), 1, "none.yaml", "check the path"
    )
    assert not (tmp_path / "run" / "state.pth").exists()


def test_unusable_training_data_is_refused(pairs, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    assert_refused(train(tmp_path / "empty", out), 1, "no pairs")
    assert_refused(train(tmp_path / "none", out), 1, "none")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"data": {"train": ["s1/000.png", "s1/777.png"], "val": [], "test": []}}))
    assert_refused(train(pairs, out, "--split", split), 1, "777.png")
    (pairs / "s2" / "001.png").unlink()
    assert_refused(train(pairs, out), 1, "001.png")
    assert not out.exists()


def test_a_corrupt_chip_is_named_and_skipped_only_with_the_option(pairs, tmp_path):
    victim = pairs / "s1" / "002.png"
    victim.write_bytes(victim.read_bytes()[:-3000])
    out = tmp_path / "run"
    assert_refused(train(pairs, out, "--steps", 1), 1, "002.png", "--skip-unreadable")
    assert not out.exists()
    result = train(pairs, out, "--steps", 1, "--skip-unreadable")
    assert result.returncode == 0, result.stderr
    assert "002.png" in result.stderr
    assert (out / "generator.pth").exists()


def test_a_state_of_another_width_stays_as_it_is(pairs, tmp_path):
    out = tmp_path / "run"
    assert train(pairs, out, "--steps", 1).returncode == 0
    before = sha256(out / "state.pth")
    result = here(train_main, pairs, out, "--batch", 2, "--base-channels", 4, "--steps", 1, "--precision",
                     "fp32", "--discriminator-channels", 2)  # fmt: skip
    assert_refused(result, 1, "base_channels 2/4", "--restart")
    assert_refused(train(pairs, tmp_path / "other", "--from-generator", out / "state.pth"), 1, "state.pth")
    assert sha256(out / "state.pth") == before


@contextmanager
def files_of_at_most(size):
    """Let this process write no file of more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_space_for_a_checkpoint_keeps_the_one_before(pairs, tmp_path):
    out = tmp_path / "run"
    steps = ["--steps", "4", "--save-every", "1", "--no-tensorboard"]
    with files_of_at_most(200_000):
        result = train(pairs, out, *steps)
    assert_refused(result, 1, "cannot be written", "free space")
    assert not list(out.glob("*.pth"))
    assert not list(out.glob(".*tmp"))
    assert train(pairs, out, *steps).returncode == 0
    before = sha256(out / "state.pth")
    with files_of_at_most(200_000):
        result = train(pairs, out, *steps, "--restart")
    assert_refused(result, 1, "free space")
    assert sha256(out / "state.pth") == before


def test_values_from_yaml_are_checked(pairs, tmp_path):
    for text, said in [
        ("training: {lr: abc}", "learning_rate is 'abc'"),
        ("training: {save_freq: null}", "save_every is None"),
        ("dataset: {split_ratio: 0.7}", "split_ratio is 0.7"),
        ("dataset: {split_mode: split}", "split_mode is 'split' and split_file None"),
        ("logging: {comet: true}", "logging.comet is True"),
        ("model: {c_in: abc}", "model.c_in is 'abc'"),
        ("model: {is_CGAN: 'no'}", "conditional is 'no': give true or false"),
        ("batch: 2.5", "batch is 2.5: give a whole number"),
        ("seed: -1", "seed is -1"),
    ]:
        (tmp_path / "config.yaml").write_text(text)
        result = here(train_main, pairs, tmp_path / "run", "--config", tmp_path / "config.yaml")
        assert_refused(result, 1, said)
    assert not (tmp_path / "run").exists()


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("training: {lr: 2e-4, num_epochs: 200, resume: true, resume_epoch: 180, gen_checkpoint: g.pth}")
    settings = read_settings(path)
    assert settings.config["learning_rate"] == 2e-4
    assert settings.config["epochs"] == 20
    assert settings.generator == Path("g.pth")
    path.write_text("learning_rate: 1e-3\ncompile: true\nworkers: 3")
    settings = read_settings(path)
    assert (settings.config, settings.options) == ({"learning_rate": 1e-3, "compile": True}, {"workers": 3})


def test_a_folder_of_another_run_or_with_foreign_files_is_refused(pairs, tmp_path):
    out = tmp_path / "run"
    arguments = [BIN / "sar2opt-train", pairs, out, *TINY, "--steps", "5000", "--no-tensorboard", "-q"]
    started = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (out / "metrics.csv").exists():
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.01)
    assert_refused(train(pairs, out, "--steps", 5000, "--no-tensorboard"), 1, "another run is writing there")
    started.kill()
    started.wait(60)
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.csv").write_text("precious")
    assert_refused(train(pairs, other, "--steps", 1), 1, "metrics.csv", "--restart")
    assert (other / "metrics.csv").read_text() == "precious"


def test_restarting_replaces_the_old_run(pairs, tmp_path):
    out = tmp_path / "run"
    steps = ["--save-every", "1", "--keep", "2", "--no-tensorboard"]
    assert train(pairs, out, "--steps", 6, *steps).returncode == 0
    assert train(pairs, out, "--steps", 4, *steps, "--seed", 7, "--restart").returncode == 0
    assert sorted(p.name for p in out.glob("generator-*")) == ["generator-0000002.pth", "generator-0000004.pth"]
    assert torch.load(out / "state.pth", weights_only=True)["config"]["seed"] == 7
    with (out / "metrics.csv").open() as table:
        assert [row["step"] for row in csv.DictReader(table)] == ["2", "4"]


def test_power_beside_reflectance_is_trained_and_scored_on(tmp_path, make_raster):
    for k in range(2):
        for half in ("s1", "s2"):
            (tmp_path / "pairs" / half).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(k)
        power = rng.gamma(4.4, 0.02, (256, 256)).astype(np.float32)
        make_raster(power, f"pairs/s1/{k}.tif", descriptions=["VH"], **UTM)
        make_raster(rng.integers(0, 3000, (3, 256, 256)).astype(np.uint16), f"pairs/s2/{k}.tif", **UTM)
    data, out = tmp_path / "pairs", tmp_path / "run"
    assert_refused(train(data, out, "--steps", 1), 1, "give --units")
    result = train(data, out, "--steps", 1, "--units", "power", "--unit", "db", "--stretch", "-25", "0")
    assert result.returncode == 0, result.stderr
    scored = here(eval_main, out / "generator.pth", data, "--units", "power", "--optical-max", 2000)
    assert scored.returncode == 0, scored.stderr
    assert "generator.pth, pytorch fp32" in scored.stdout


def test_sen12ms_radar_chips_without_names_are_trained_on_by_index(tmp_path, make_raster):
    """SEN12MS has two bands of dB and thirteen bands of reflectance, all without names."""
    for half in ("s1", "s2"):
        (tmp_path / "ms" / "ROIs1158_spring" / f"{half}_1").mkdir(parents=True)
    for k in range(2):
        rng = np.random.default_rng(k)
        db = 10 * np.log10(rng.gamma(4.4, 0.02, (256, 256))).astype(np.float32)
        name = f"ms/ROIs1158_spring/{{0}}_1/ROIs1158_spring_{{0}}_1_p{k}.tif"
        make_raster(np.stack([db + 3, db]), name.format("s1"), **UTM)
        make_raster(rng.integers(0, 3000, (13, 256, 256)).astype(np.uint16), name.format("s2"), **UTM)
    data, out = tmp_path / "ms", tmp_path / "run"
    options = ["--steps", 1, "--unit", "db", "--stretch", "-25", "0"]
    assert_refused(train(data, out, *options), 1, "2 bands without names, but VH is needed", "--band 2")
    assert not out.exists()
    optical._log_once.cache_clear()  # the first run logged it in this process
    result = train(data, out, *options, "--band", 2)
    assert result.returncode == 0, result.stderr
    assert "band 2 is taken as VH" in result.stderr
    assert (
        "bands 4, 3, 2 are red, green and blue (13 bands without names, assumed order: Sentinel-2 L1C"
        in result.stderr
    )
    signature = json.loads(torch.load(out / "generator.pth", weights_only=True)["signature"])
    assert signature["bands"] == ["VH"]
    assert train(data, tmp_path / "both", *options, "--band", "1=VV", "--band", "2=VH").returncode == 0
    signature = json.loads(torch.load(tmp_path / "both" / "generator.pth", weights_only=True)["signature"])
    assert (signature["bands"], signature["channels"]) == (["VV", "VH"], 2)
    refused = here(eval_main, out / "generator.pth", data)
    assert_refused(refused, 1, "2 bands without names, but VH is needed", "--band 2")
    scored = here(eval_main, out / "generator.pth", data, "--band", 2, "--rgb", 4, 3, 2, "--limit", 1)
    assert scored.returncode == 0, scored.stderr


def test_the_remedy_for_small_chips_works(tmp_path):
    data, out = write_pairs(tmp_path / "small", 2, 128), tmp_path / "run"
    assert_refused(train(data, out), 1, "128 x 128", "--window 128 (to train: with --architecture detail)")
    assert_refused(train(data, out, "--window", 128), 1, "window is 128", "architecture detail", "multiples of 64")
    options = ["--window", 128, "--architecture", "detail", "--steps", 1, "--val-data", data]
    result = train(data, out, *options)
    assert result.returncode == 0, result.stderr
    assert json.loads(torch.load(out / "generator.pth", weights_only=True)["signature"])["window"] == 128
    scored = here(eval_main, out / "generator.pth", data)
    assert scored.returncode == 0, scored.stderr


@pytest.mark.parametrize(
    ("window", "architecture"), [(512, "pix2pix"), (512, "detail"), (1024, "pix2pix"), (1024, "detail")]
)
def test_a_generator_is_trained_on_wider_windows_which_become_its_own(tmp_path, window, architecture):
    data, out = write_pairs(tmp_path / "pairs", 1, 1024), tmp_path / "run"
    options = ["--window", window, "--architecture", architecture, "--base-channels", 1, "--steps", 2]
    result = train(data, out, *options, "--val-data", data)
    assert result.returncode == 0, result.stderr
    generator, signature = load_generator(out / "generator.pth")
    assert signature.window == window
    fresh = build_generator(generator.arguments)
    zero_unused_taps(fresh, window)
    assert all(value.ne(0).all() for name, value in fresh.state_dict().items() if "conv" in name and value.ndim == 4)
    with open_engine(out / "generator.pth", options=EngineOptions(device="cpu")) as engine:
        assert engine.windows == tuple(side for side in (512, 1024, 2048) if side >= window)
    refused = train(write_pairs(tmp_path / "small", 1, 256), tmp_path / "none", *options)
    assert_refused(refused, 1, f"256 x 256 pixels, smaller than the window of {window}", "--window 256")
    assert not (tmp_path / "none").exists()


def test_images_side_by_side_are_trained_and_scored_on(tmp_path, make_raster):
    (tmp_path / "ab" / "train").mkdir(parents=True)
    for k in range(2):
        grey, colours = (np.stack([speckle((256, 256), seed=s) for s in seeds]) for seeds in ((k,) * 3, (7, 8, 9)))
        make_raster(np.concatenate((grey, colours), axis=2), f"ab/train/{k}.png")
    data, out = tmp_path / "ab", tmp_path / "run"
    assert_refused(train(data, out, "--steps", 1), 1, "no pairs", "--aligned")
    assert_refused(train(data, out, "--steps", 1, "--aligned", "--band", 1), 1, "no effect on --aligned")
    result = train(data, out, "--steps", 1, "--aligned")
    assert result.returncode == 0, result.stderr
    scored = here(eval_main, out / "generator.pth", data, "--aligned")
    assert scored.returncode == 0, scored.stderr


def test_optical_chips_of_another_scale_are_refused_with_a_value_that_works(tmp_path, make_raster):
    for half in ("s1", "s2"):
        (tmp_path / "k" / half).mkdir(parents=True)
    for k in range(2):
        make_raster(speckle((256, 256), seed=k), f"k/s1/{k}.png")
        bright = np.stack([speckle((256, 256), seed=s) for s in range(3)]).astype(np.uint16) * 257
        make_raster(bright, f"k/s2/{k}.tif")
    data, out = tmp_path / "k", tmp_path / "run"
    result = train(data, out, "--steps", 1)
    assert_refused(result, 1, "become white: give --optical-max 64000")
    assert not out.exists()
    assert train(data, out, "--steps", 1, "--optical-max", 64000).returncode == 0
    assert_refused(here(eval_main, out / "generator.pth", data), 1, "give --optical-max 64000")


def test_a_missing_comet_is_an_error(pairs, tmp_path):
    pytest.importorskip("lightning_fabric")
    result = train(pairs, tmp_path / "run", "--steps", 1, "--comet", "pix2pix")
    assert_refused(result, 1, "pip install 'sar2optical[comet]'")
