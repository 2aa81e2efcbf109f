"""Which engine is the fastest: measured once, remembered, and never one that gives another image."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import onnx
import pytest
import rasterio

from export.build import ExportOptions, export
from export.graph import metadata_of
from sar2optical.engines import EngineOptions, auto, open_engine
from sar2optical.engines.auto import WORTHWHILE, cache_file, open_model, windows_per_second
from sar2optical.engines.known_answer import question
from sar2optical.errors import DeviceUnavailable, ModelUnreadable
from sar2optical.metrics import psnr
from sar2optical.models.zoo import bundled, variants
from sar2optical.translate import TranslateOptions, translate
from tests.conftest import BYTES, speckle
from tests.graphs import save_small_net
from tests.test_known_answer import other_weights

CPU = EngineOptions(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    return tmp_path / "cache" / "engines.json"


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


@pytest.fixture
def measures_nothing(monkeypatch):
    def fail(*_):
        raise AssertionError("it measures")

    return lambda: monkeypatch.setattr(auto, "_measure", fail)


def opened(files, **changes):
    """What is opened for a scene that is worth measuring for."""
    engine, file = open_model(files, **{"options": CPU, "windows": WORTHWHILE, **changes})
    with engine:
        return engine.backend, engine.precision, engine.batch, file


def test_a_precision_takes_its_file(files, measures_nothing):
    measures_nothing()
    for precision, file in files.items():
        options = EngineOptions(device="cpu", precision=precision)
        assert opened(files, options=options) == ("openvino", precision, 1, file)


def test_a_precision_without_a_file_is_the_references_to_refuse(files):
    with pytest.raises(DeviceUnavailable, match="precision fp8 is not available"):
        open_model(files, options=EngineOptions(device="cpu", precision="fp8"))


def test_for_a_few_windows_nothing_is_measured(files, cache, measures_nothing):
    measures_nothing()
    backend, _, _, file = opened(files, windows=WORTHWHILE - 1)
    assert (backend, file) == ("openvino", files["fp32"])
    assert not cache.exists()


def test_what_is_measured_is_opened_and_remembered(files, cache, measures_nothing):
    first = opened(files)
    (choice,) = json.loads(cache.read_text()).values()
    assert (choice["backend"], choice["precision"], choice["batch"]) == first[:3]
    assert choice["file"] == first[3].name
    assert choice["rate"] > 0
    measures_nothing()
    assert opened(files) == first
    assert opened(files, windows=1) == first  # short runs profit too


@pytest.mark.parametrize(
    "fastest", [("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
)
def test_the_fastest_is_taken(files, rated, fastest):
    measured = rated(lambda engine: 200 if (engine.backend, engine.precision) == fastest else 100)
    assert opened(files) == (*fastest, 1, files[fastest[1]])
    assert {entry[:2] for entry in measured} >= {
        (backend, precision) for backend in ("openvino", "onnxruntime") for precision in files
    }


def test_what_comes_first_stays_where_the_gain_is_in_the_noise(files, rated, usual):
    rated(lambda engine: 102 if engine.precision == "int8" else 100)
    assert opened(files)[1] == usual


@pytest.mark.parametrize(
    ("rate", "batch", "streams"),
    [
        (lambda engine: 100 * engine.batch, 4, 4),
        (lambda engine: 100 / engine.streams, 1, 2),
        (lambda engine: 100, 1, 4),
    ],
    ids=["batches help", "half of the threads help", "neither helps"],
)
def test_batches_and_threads_are_measured_with_the_fastest_alone(files, rated, monkeypatch, rate, batch, streams):
    monkeypatch.setattr(auto, "default_threads", lambda: 4)
    measured = rated(lambda engine: rate(engine) * (2 if engine.precision == "int8" else 1))
    engine, _ = open_model(files, backend="onnxruntime", options=EngineOptions(device="cpu"), windows=WORTHWHILE)
    with engine:
        assert (engine.batch, engine.streams, engine.precision) == (batch, streams, "int8")
    assert {entry[2:] for entry in measured if entry[1] == "fp32"} == {(1, 4)}


def test_what_was_asked_for_is_not_chosen(files, rated):
    measured = rated(lambda engine: 100 * engine.batch * (1 + (engine.backend == "openvino")))
    options = EngineOptions(device="cpu", threads=1, batch=2)
    assert opened(files, backend="onnxruntime", options=options)[:3] == ("onnxruntime", "fp32", 2)
    assert {entry[0] for entry in measured} == {"onnxruntime"}


def test_batch_and_threads_do_not_decide_which_file_runs(files, rated):
    rated(lambda engine: 200 if engine.precision == "int8" else 100)
    first = opened(files)
    assert first[1] == "int8"
    rated(lambda engine: 100 if engine.precision == "int8" else 200)  # another hour, another noise
    for batch, threads in ((1, 2), (3, None), (8, 1)):
        options = EngineOptions(device="cpu", threads=threads, batch=batch)
        found = opened(files, options=options)
        assert (found[0], found[1], found[3]) == (first[0], first[1], first[3])
        assert found[2] == batch


def test_another_question_is_measured_anew(files, cache, rated):
    rated(lambda _: 100)
    opened(files)
    opened(files, backend="onnxruntime")
    opened(files, options=EngineOptions(device="cpu", threads=1, batch=2))  # the same one
    opened({"reference": files["fp32"]})
    assert len(json.loads(cache.read_text())) == 3


def test_the_same_model_by_another_name_is_no_trouble(tmp_path, files, rated):
    rated(lambda _: 100)
    opened({"reference": files["fp32"]})
    copy = shutil.copy(files["fp32"], tmp_path / "copy.onnx")
    assert opened({"reference": copy}, windows=1)[3] == copy


WELL = {"file": "small.onnx", "backend": "openvino", "precision": "fp32", "batch": 1, "threads": 1, "rate": 1.0}


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
                {"batch": "4"},
                {"batch": 2.0},
                {"threads": -1},
                {"rate": None},
                {"more": 1},
            )
        ),
    ],
)
def test_a_corrupt_memory_costs_its_measuring(files, cache, rated, usual, content):
    rated(lambda _: 100)
    cache.parent.mkdir()
    key = auto._key({file.name: file for file in files.values()}, "auto", EngineOptions(device="cpu"))
    cache.write_text(content.replace("KEY", key))
    expected = ("openvino", usual, 1, files["fp32"])
    assert opened(files) == expected
    assert json.loads(cache.read_text())[key]["rate"] == 100


def test_a_choice_that_does_not_open_is_dropped_with_a_word(files, cache, rated, usual, caplog):
    rated(lambda _: 100)
    cache.parent.mkdir()
    key = auto._key({file.name: file for file in files.values()}, "auto", EngineOptions(device="cpu"))
    cache.write_text(json.dumps({key: {**WELL, "backend": "onnxruntime", "precision": "fp8"}}))
    assert opened(files) == ("openvino", usual, 1, files["fp32"])
    assert "does not open" in caplog.text


def test_a_user_without_a_home_has_no_memory(files, monkeypatch, rated):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SAR2OPT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(auto.Path, "home", homeless)
    measured = rated(lambda _: 100)
    assert opened(files, windows=1)[3] == files["fp32"]
    assert measured == []
    assert opened(files)[3] == files["fp32"]
    assert measured


def test_a_memory_that_cannot_be_written_costs_the_next_run_its_measuring(tmp_path, files, monkeypatch, rated):
    measured = rated(lambda _: 100)
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "file" / "cache"))
    first = opened(files)
    count = len(measured)
    assert opened(files) == first
    assert len(measured) == 2 * count > 0
    assert (tmp_path / "file").read_text() == "precious"


def test_what_gives_another_image_is_not_chosen(tmp_path, files, rated, usual):
    tampered = other_weights(files["int8"], tmp_path / "tampered.int8.onnx")
    measured = rated(lambda engine: 1000 if engine.precision == "int8" else 100)
    _, precision, _, file = opened({"fp32": files["fp32"], "int8": tampered})
    assert (precision, file) == (usual, files["fp32"])
    assert "int8" not in {entry[1] for entry in measured}
    assert opened(files, backend="openvino")[1] == "int8"  # whole, it is the fastest


def test_a_model_that_nothing_opens_is_the_error_it_always_was(tmp_path, cache):
    path = tmp_path / "text.onnx"
    path.write_text("hello")
    with pytest.raises(ModelUnreadable, match="no ONNX model"):
        open_model({"reference": path}, options=CPU, windows=WORTHWHILE)
    assert not cache.exists()


def test_checkpoints_and_gpus_are_not_measured(files, checkpoint, cache, measures_nothing):
    measures_nothing()
    assert opened({"reference": checkpoint})[0] == "pytorch"
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="cuda"):
            open_model(files, options=EngineOptions(device="cuda"), windows=WORTHWHILE)
    assert not cache.exists()


def test_the_memory_is_where_it_was_put(tmp_path, monkeypatch):
    assert cache_file() == tmp_path / "cache" / "engines.json"
    monkeypatch.delenv("SAR2OPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file() == tmp_path / "xdg" / "sar2optical" / "engines.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_file() == tmp_path / "home" / ".cache" / "sar2optical" / "engines.json"


def test_a_rate_is_of_windows_and_every_one_of_them_runs(exported):
    with open_engine(exported, options=EngineOptions(device="cpu", batch=2, threads=1)) as engine:
        runs, plain = [], engine.run
        engine.run = lambda sar: runs.append(len(sar)) or plain(sar)
        assert windows_per_second(engine, np.repeat(question(BYTES), 4, axis=0)) > 0
    assert runs == [2, 2]


def test_a_scene_worth_it_is_measured_for(tmp_path, exported, make_raster, cache, monkeypatch):
    src, out = make_raster(speckle((500, 500)), descriptions=["VH"]), tmp_path / "out.tif"
    translate(src, out, model=exported, options=TranslateOptions(engine=CPU))
    assert not cache.exists()  # four windows or so
    monkeypatch.setattr(auto, "WORTHWHILE", 4)
    translate(src, out, model=exported, options=TranslateOptions(engine=CPU, overwrite=True, measure=False))
    assert not cache.exists()
    report = translate(src, out, model=exported, options=TranslateOptions(engine=CPU, overwrite=True))
    (choice,) = json.loads(cache.read_text()).values()
    with rasterio.open(out) as mosaic:
        assert mosaic.tags()["SAR2OPTICAL_ENGINE"] == report.engine
        assert mosaic.tags()["SAR2OPTICAL_BATCH"] == str(choice["batch"])
    assert report.engine.startswith(f"{choice['backend']} {choice['precision']} on cpu")


def test_that_it_measures_is_said(files, caplog, rated):
    rated(lambda _: 100)
    with caplog.at_level(logging.INFO, "sar2optical"):
        opened(files)
    said = [record.message for record in caplog.records]
    assert said[0] == "measuring which engine is the fastest here; this is done once"
    assert said[-1].startswith("measured to be the fastest here, with 100 windows/s: small.onnx with openvino")


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
            images.append(engine.run(question(engine.signature)))
    assert images[0].std() > 0.1
    assert 30 < psnr(*images, data_range=2.0) < 80  # near, and not the same file twice
