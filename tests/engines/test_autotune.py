"""Which engine runs: what CPU and files say, or what was measured by command; never one that gives another image."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from export.build import ExportOptions, export
from sar2optical.cli.doctor import main as doctor
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines import autotune as auto
from sar2optical.engines.autotune import open_model, tune, tuning_file, windows_per_second
from sar2optical.engines.onnx_graph import metadata_of
from sar2optical.engines.registry import bundled, variants
from sar2optical.engines.self_test import self_test_input
from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OutputUnwritable
from sar2optical.evaluation.metrics import psnr
from sar2optical.pipeline.options import TranslateOptions
from sar2optical.pipeline.run import translate
from tests.conftest import BYTES, speckle
from tests.engines.test_self_test import other_weights
from tests.graphs import save_small_net

CPU = EngineOptions(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    return tmp_path / "cache" / "tuning.json"


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was():
    """A command that is called in this process sets it up."""
    logger = logging.getLogger("sar2optical")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="module")
def files(tmp_path_factory, calibration):
    folder = tmp_path_factory.mktemp("small")
    reference = save_small_net(folder / "small.onnx")
    options = ExportOptions(precision="int8", calibration=calibration, method="minmax")
    return {"fp32": reference, "int8": export(reference, folder / "small.int8.onnx", options).out}


@pytest.fixture
def usual(files):
    """What OpenVINO makes of the reference by itself: bf16 where the CPU has it."""
    with open_engine(files["fp32"], backend="openvino", options=CPU) as engine:
        return engine.precision


@pytest.fixture
def rated(monkeypatch):
    """Have engines run at rates of our choosing: no clock decides a test."""
    measured = []

    def set_rates(rate):
        def windows_per_second(engine, windows):
            engine.run(windows[: engine.batch])
            measured.append((engine.backend, engine.precision, engine.batch, engine.streams))
            return float(rate(engine))

        monkeypatch.setattr(auto, "windows_per_second", windows_per_second)
        return measured

    return set_rates


def opened(files, **changes):
    """What is opened for a scene."""
    engine, file = open_model(files, **{"options": CPU, **changes})
    with engine:
        return engine.backend, engine.precision, file


@pytest.fixture
def cpu(monkeypatch):
    """Have a CPU of other instructions."""

    def has(*flags):
        monkeypatch.setattr(auto, "_processor", lambda: "flags : fpu avx2 " + " ".join(flags))

    return has


def test_a_precision_takes_its_file(files):
    for precision, file in files.items():
        options = EngineOptions(device="cpu", precision=precision)
        assert opened(files, options=options) == ("openvino", precision, file)


def test_a_precision_without_a_file_is_the_references_to_refuse(files):
    with pytest.raises(DeviceUnavailable, match="precision fp8 is not available"):
        open_model(files, options=EngineOptions(device="cpu", precision="fp8"))


# Untuned: the CPU's instructions and the files decide


@pytest.mark.parametrize(
    ("flags", "file"),
    [
        ((), "fp32"),
        (("avx512_vnni",), "int8"),
        (("avx_vnni",), "int8"),
        (("avx512_vnni", "avx512_bf16"), "int8"),
        (("avx512_vnni", "avx512_bf16", "amx_bf16"), "fp32"),
    ],
)
def test_the_instructions_decide(files, cpu, cache, flags, file):
    cpu(*flags)
    assert opened(files)[2] == files[file]
    assert opened(files, backend="openvino")[2] == files[file]
    assert not cache.exists()


def test_int8_is_taken_only_in_openvino_and_where_there_is_such_a_file(files, cpu, monkeypatch):
    cpu("avx512_vnni")
    assert opened(files, backend="onnxruntime") == ("onnxruntime", "fp32", files["fp32"])
    assert opened({"fp32": files["fp32"]})[2] == files["fp32"]
    monkeypatch.setattr(auto, "find_spec", lambda name: None)
    assert opened(files)[2] == files["fp32"]


def test_batch_and_threads_do_not_decide_which_file_runs(files, cpu):
    for flags in ((), ("avx512_vnni",)):
        cpu(*flags)
        first = opened(files)
        for batch, threads in ((1, 2), (3, None), (8, 1)):
            assert opened(files, options=EngineOptions(device="cpu", threads=threads, batch=batch)) == first


def test_no_scene_of_any_size_is_measured_for(tmp_path, exported, make_raster, cache, monkeypatch):
    monkeypatch.setattr(auto, "windows_per_second", lambda *_: pytest.fail("it measures"))
    src, out = make_raster(speckle((3000, 3000)), descriptions=["VH"]), tmp_path / "out.tif"
    report = translate(src, out, model=exported, options=TranslateOptions(engine=CPU, overlap=64))
    assert report.windows > 200
    assert not cache.exists()


# Tuned


@pytest.mark.parametrize(
    "fastest", [("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
)
def test_the_fastest_is_taken_and_kept(files, cache, rated, fastest):
    measured = rated(lambda engine: 200 if (engine.backend, engine.precision) == fastest else 100)
    choice = tune(files)
    assert (choice.backend, choice.precision, choice.file) == (*fastest, files[fastest[1]].name)
    assert list(json.loads(cache.read_text()).values()) == [asdict(choice)]
    assert {entry[:2] for entry in measured} >= {
        (backend, precision) for backend in ("openvino", "onnxruntime") for precision in files
    }
    measured.clear()
    assert opened(files) == (*fastest, files[fastest[1]])
    assert measured == []


def test_what_comes_first_stays_where_the_gain_is_in_the_noise(files, rated, usual):
    rated(lambda engine: 102 if engine.precision == "int8" else 100)
    assert tune(files).precision == usual


@pytest.mark.parametrize(("rate", "streams"), [(lambda engine: 100 / engine.streams, 2), (lambda engine: 100, 4)])
def test_half_of_the_threads_are_measured_with_the_fastest_alone(files, rated, monkeypatch, rate, streams):
    monkeypatch.setattr(auto, "default_threads", lambda: 4)
    measured = rated(lambda engine: rate(engine) * (2 if engine.precision == "int8" else 1))
    assert tune(files, backend="onnxruntime").threads == streams
    engine, _ = open_model(files, backend="onnxruntime", options=EngineOptions(device="cpu"))
    with engine:
        assert (engine.streams, engine.precision) == (streams, "int8")
    assert {streams for _, precision, _, streams in measured if precision == "fp32"} == {4}


def test_what_was_asked_for_is_not_chosen(files, rated):
    rated(lambda engine: 200 if engine.precision == "int8" else 100)
    tune(files)
    engine, _ = open_model(files, options=EngineOptions(device="cpu", threads=1, batch=3))
    with engine:
        assert (engine.precision, engine.streams, engine.batch) == ("int8", 1, 3)
    assert opened(files, options=EngineOptions(device="cpu", precision="fp32"))[1] == "fp32"


def test_a_choice_is_for_its_files_and_backend(files, cache, cpu, rated):
    cpu()
    rated(lambda engine: 200 if engine.precision == "int8" else 100)
    tune(files)
    assert opened({"fp32": files["fp32"]})[2] == files["fp32"]
    assert opened(files, backend="onnxruntime")[2] == files["fp32"]
    tune(files, backend="onnxruntime")
    assert opened(files, backend="onnxruntime")[2] == files["int8"]
    assert len(json.loads(cache.read_text())) == 2


def test_the_same_model_by_another_name_is_no_trouble(tmp_path, files, cpu, rated):
    cpu("avx512_vnni")
    rated(lambda engine: 200 if engine.backend == "onnxruntime" else 100)
    tune(files)
    copies = {precision: shutil.copy(file, tmp_path / file.name) for precision, file in files.items()}
    assert opened(copies)[0] == "onnxruntime"


WELL = {"file": "small.onnx", "backend": "onnxruntime", "precision": "fp32", "threads": 1, "rate": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "[]",
        "[" * 100_000,
        '{"KEY": 3}',
        '{"KEY": {"file": "small.onnx"}}',
        *(
            json.dumps({"KEY": {**WELL, **change}})
            for change in (
                {"file": ["a"]},
                {"file": "gone.onnx"},
                {"backend": "foo"},
                {"threads": "4"},
                {"threads": 2.0},
                {"threads": -1},
                {"rate": None},
                {"more": 1},
            )
        ),
    ],
)
def test_a_corrupt_tuning_file_is_as_none(files, cache, cpu, rated, content):
    cpu()
    cache.parent.mkdir()
    key = auto._key(files, "auto")
    cache.write_text(json.dumps({key: WELL}))
    assert opened(files)[0] == "onnxruntime"  # the key is right
    cache.write_text(content.replace("KEY", key))
    assert opened(files)[0] == "openvino"
    rated(lambda _: 100)
    tune(files)
    assert json.loads(cache.read_text())[key]["rate"] == 100


def test_a_choice_that_does_not_open_is_dropped_with_a_word(files, cache, cpu, caplog):
    cpu()
    cache.parent.mkdir()
    cache.write_text(json.dumps({auto._key(files, "auto"): {**WELL, "precision": "fp8"}}))
    assert opened(files)[2] == files["fp32"]
    assert "cannot be opened" in caplog.text
    assert "--tune" in caplog.text


def test_a_tuned_run_says_so(files, cache, rated, caplog):
    rated(lambda engine: 200 if engine.precision == "int8" else 100)
    tune(files)
    caplog.clear()
    with caplog.at_level(logging.INFO, "sar2optical"):
        opened(files)
    (said,) = [record.message for record in caplog.records]
    assert said == f"engine chosen by sar2opt-doctor --tune ({cache}): small.int8.onnx with openvino int8, 2 threads"


def test_a_user_without_a_home_can_run_and_not_tune(files, cpu, monkeypatch, rated):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    cpu()
    monkeypatch.delenv("SAR2OPT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(auto.Path, "home", homeless)
    rated(lambda _: 100)
    assert opened(files)[2] == files["fp32"]
    with pytest.raises(OutputUnwritable, match="set SAR2OPT_CACHE"):
        tune(files)


def test_a_choice_that_cannot_be_kept_is_an_error(tmp_path, files, monkeypatch, rated):
    rated(lambda _: 100)
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputUnwritable, match="set SAR2OPT_CACHE"):
        tune(files)
    assert (tmp_path / "file").read_text() == "precious"


def test_what_gives_another_image_is_not_chosen(tmp_path, files, rated, usual):
    tampered = other_weights(files["int8"], tmp_path / "tampered.int8.onnx")
    measured = rated(lambda engine: 1000 if engine.precision == "int8" else 100)
    assert tune({"fp32": files["fp32"], "int8": tampered}).precision == usual
    assert "int8" not in {entry[1] for entry in measured}


def test_a_model_that_nothing_opens_is_the_error_it_always_was(tmp_path, cache):
    path = tmp_path / "text.onnx"
    path.write_text("hello")
    with pytest.raises(ModelUnreadable, match="not an ONNX model"):
        tune({"reference": path})
    assert not cache.exists()


def test_there_is_nothing_to_tune_for_a_checkpoint(checkpoint, cache):
    assert opened({"reference": checkpoint})[0] == "pytorch"
    with pytest.raises(ModelUnreadable, match=r"give an \.onnx file"):
        tune({"reference": checkpoint})
    assert not cache.exists()


def test_the_doctor_tunes(files, cache, rated):
    rated(lambda engine: 200 if engine.backend == "onnxruntime" else 100)
    reference = files["fp32"]
    assert opened({"reference": reference})[0] == "openvino"
    result = CliRunner().invoke(doctor, ["--tune", "--model", str(reference)])
    assert result.exit_code == 0, result.output
    assert "fastest: small.onnx with onnxruntime fp32" in result.output
    assert f"stored in {cache}" in result.output
    assert opened({"reference": reference})[0] == "onnxruntime"
    for wrong in (["--model", str(reference)], ["--tune", "--only", "gpu"]):
        assert CliRunner().invoke(doctor, wrong).exit_code == 2


def test_the_doctor_tunes_the_bundled_generator(rated):
    rated(lambda engine: 200 if engine.precision == "int8" else 100)
    result = CliRunner().invoke(doctor, ["--tune", "--json"])
    assert json.loads(result.output)["precision"] == "int8"
    assert opened(variants(bundled()))[1] == "int8"


def test_the_tuning_file_is_where_it_was_put(tmp_path, monkeypatch):
    assert tuning_file() == tmp_path / "cache" / "tuning.json"
    monkeypatch.delenv("SAR2OPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tuning_file() == tmp_path / "xdg" / "sar2optical" / "tuning.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tuning_file() == tmp_path / "home" / ".cache" / "sar2optical" / "tuning.json"


def test_a_rate_is_of_windows_and_every_one_of_them_runs(exported):
    with open_engine(exported, options=EngineOptions(device="cpu", batch=2, threads=1)) as engine:
        runs, plain = [], engine.run
        engine.run = lambda sar, places: runs.append(len(sar)) or plain(sar, places)
        assert windows_per_second(engine, np.repeat(self_test_input(BYTES), 4, axis=0)) > 0
    assert runs == [2, 2]


# The bundled generator


def test_the_bundled_int8_file_kept_40_db_on_real_chips():
    files = variants(bundled())
    assert list(files) == ["fp32", "int8"]
    said = metadata_of(onnx.load(files["int8"]))
    assert said["sar2optical.precision"] == "int8"
    assert float(said["sar2optical.parity_psnr_db"]) >= 40
    chips, source = said["sar2optical.parity_chips"].split(maxsplit=1)
    assert int(chips) >= 8
    assert source != "simulated"
    assert len(set(json.loads(said["sar2optical.calibration"])["windows"])) >= 8
    assert sum(file.stat().st_size for file in files.values()) <= 30e6


def test_other_files_stand_for_themselves(exported):
    assert variants(exported) == {"reference": exported}


def test_both_bundled_files_give_one_image():
    images = []
    for precision, file in variants(bundled()).items():
        options = EngineOptions(device="cpu", precision=precision, threads=1)
        with open_engine(file, options=options) as engine:
            images.append(engine.run(self_test_input(engine.signature)))
    assert images[0].std() > 0.1
    assert 30 < psnr(*images, data_range=2.0) < 80  # near, and not the same file twice
