"""Plans of TensorRT, and engines of both libraries, on a stand-in that builds with TensorRT for RTX."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

import export.timing_cache
import export.to_tensorrt
import sar2optical.engines
from sar2optical.engines import EngineOptions, open_engine
from sar2optical.engines.tensorrt_plan import (
    PlanOptions,
    PlanRecord,
    cache_name,
    load_record,
    read_header,
    record_path,
)
from sar2optical.engines.tensorrt_runtime import Gpu
from sar2optical.errors import (
    DeviceOutOfMemory,
    DeviceUnavailable,
    ExportUnsupported,
    InferenceFailed,
    ModelUnreadable,
    OptionError,
    OutputExists,
    OutputUnwritable,
    ParityFailed,
    SignatureError,
)
from sar2optical.signature import METADATA_KEY
from tests import fake_tensorrt
from tests.conftest import make_identity, save_onnx, signature_of

pytestmark = pytest.mark.skipif(fake_tensorrt.real is None, reason="tensorrt-rtx-cu13 is not installed")

SMALL = signature_of(window=16)


@pytest.fixture
def library():
    return "tensorrt"


BOTH = pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])


@pytest.fixture
def world(library, tmp_path, monkeypatch):
    monkeypatch.setenv("SAR2OPT_CACHE", str(tmp_path / "cache"))
    return fake_tensorrt.World(library)


@pytest.fixture
def ours(world, monkeypatch):
    """Our modules with the stand-in, for one test."""
    name = f"sar2optical.engines.{world.library}"
    monkeypatch.setitem(sys.modules, world.library, fake_tensorrt.fake_library(world))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(sar2optical.engines, world.library, raising=False)  # the real one, if installed
    engine = import_module(name)
    gpu = Gpu(torch.device("cpu"), world.gpu, world.capability)
    for module in (engine, export.to_tensorrt):
        monkeypatch.setattr(module, "current_gpu", lambda: Gpu(gpu.place, world.gpu, world.capability))
    card = SimpleNamespace(name=world.gpu, compute_capability=world.capability)
    monkeypatch.setattr("export.plans.first_card", lambda: card)
    yield SimpleNamespace(engine=engine, build=export.to_tensorrt)
    del sys.modules[name]
    delattr(sar2optical.engines, world.library)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return make_identity(folder / "identity.onnx", SMALL)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()
    return folder


def in_precision(path, precision):
    """Write a precision into a model's metadata."""
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sar2optical.precision", precision
    onnx.save(model, path)
    return path


@pytest.fixture
def make(ours, world, model, folder):
    """Build a plan with some options."""

    def build(verify=None, on_progress=None, onnx_path=model, **options):
        return ours.build.build_plan(
            onnx_path,
            folder / "model.plan",
            PlanOptions(**{"batch": (1, 4, 8), **options}),
            runtime="tensorrt" if world.library == "tensorrt" else "rtx",
            verify=verify and (lambda candidate, _: verify(candidate)),
            rebuild="sar2opt-export identity.onnx model.plan",
            on_progress=on_progress,
        )

    return build


@pytest.fixture
def run_plan(ours, make, folder):
    """Build a plan and open it."""
    engines = []

    def opened(**options):
        make()
        engines.append(ours.engine.open(folder / "model.plan", EngineOptions(**options)))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


def chips(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 16, 16)).astype(np.float32)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_no_fake_is_left_behind():
    assert not isinstance(sys.modules.get("tensorrt"), fake_tensorrt.FakeModule)
    ours = sys.modules.get("sar2optical.engines.tensorrt")
    assert ours is getattr(sar2optical.engines, "tensorrt", None)
    assert ours is None or not isinstance(ours.tensorrt, fake_tensorrt.FakeModule)


def test_a_plan_and_its_record_are_written(make, folder, world, model):
    seen, steps = {}, []

    def verify(candidate):
        seen["record"] = load_record(candidate)
        seen["out"] = left_in(folder)
        return {"psnr_db": 51.5, "chips": "8 simulated"}

    world.types = ["Float", "Float"]
    record = make(verify, lambda *step: steps.append(step), workspace=1 << 30, hardware_compatibility="ampere_plus")
    assert left_in(folder) == ["model.plan", "model.plan.json"]
    assert load_record(folder / "model.plan") == record
    assert read_header(folder / "model.plan") == ("tensorrt", (11, 4, 0, 106))
    assert record.parity == {"psnr_db": 51.5, "chips": "8 simulated"}
    assert seen["record"].parity == {}
    assert "model.plan" not in seen["out"], "the output exists before it is verified"
    assert (record.precision, record.layers, record.batch) == ("fp32", {"fp32": 2}, (1, 4, 8))
    assert (record.gpu, record.compute_capability, record.tensorrt) == (world.gpu, (9, 0), "11.4.0.106")
    assert (record.signature, record.cuda) == (SMALL, str(torch.version.cuda))
    assert record.rebuild == "sar2opt-export identity.onnx model.plan"
    assert record.onnx_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert world.seen == {
        "network": 1 << 0,  # strongly typed
        "TF32": False,
        "level": fake_tensorrt.real.HardwareCompatibilityLevel.AMPERE_PLUS,
        "WORKSPACE": 1 << 30,
    }
    assert ("Building engine", 0, 6) in steps
    assert ("Building engine", 6, 6) in steps


def test_a_plan_of_a_file_for_several_windows_takes_its_own_window(ours, make, model, folder, world):
    """The profile has one size; larger windows in plans are not supported yet."""
    several = onnx.load(model)
    for value in (several.graph.input[0], several.graph.output[0]):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], "HW", strict=True):
            dim.dim_param = name
    claimed = signature_of(window=16, windows=(32, 64))
    onnx.helper.set_model_props(several, {METADATA_KEY: claimed.to_json()})
    onnx.save(several, model)
    record = make()
    assert record.signature.sides == (16,)
    with ours.engine.open(folder / "model.plan", EngineOptions()) as engine:
        assert engine.windows == (16,)
        np.testing.assert_array_equal(engine.run(chips(1)), np.repeat(chips(1), 3, axis=1))
        with pytest.raises(OptionError, match="window is 32, but tiny in tensorrt takes 16"):
            engine.use_window(32)
    for precision, types in (("fp32", ["Float"]), ("int8", ["Int8"])):
        world.types = types
        result = export_plan(in_precision(model, precision), folder / f"{precision}.plan")
        assert result.exit_code == 0, result.output
        assert load_record(folder / f"{precision}.plan").signature.sides == (16,)


def test_external_weights_count_for_the_hash(make, tmp_path):
    constant = np.zeros((1, 1, 16, 16), np.float32)
    nodes = [
        onnx.helper.make_node("Add", ["sar", "bias"], ["sum"]),
        onnx.helper.make_node("Concat", ["sum"] * 3, ["optical"], axis=1),
    ]
    hashes = []
    for value in (0, 1):
        path = save_onnx(tmp_path / "outside.onnx", nodes, {"bias": constant + value}, SMALL)
        model = onnx.load(path)
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        hashes.append((make(onnx_path=path, overwrite=True).onnx_sha256, path.read_bytes()))
    assert hashes[0][1] == hashes[1][1]
    assert hashes[0][0] != hashes[1][0]


def test_metadata_of_the_file_are_kept_in_the_record(make, model):
    changed = onnx.load(model)
    for key, value in (("sar2optical.known_answer", "AAAA"), ("other", "x")):
        entry = changed.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(changed, model)
    assert make().metadata == {"sar2optical.known_answer": "AAAA"}


@pytest.mark.parametrize(
    ("precision", "types", "message"),
    [
        ("int8", ["Float"], r"the plan has no int8 layers \(found: 1 fp32\)"),
        ("fp16", ["Float", "BFloat16"], "the plan has no fp16 layers"),
        ("fp32", ["Float", "Half"], r"the plan has layers below fp32 \(found: 1 fp32, 1 fp16\)"),
    ],
)
def test_a_plan_in_another_precision_is_not_written(make, model, folder, world, precision, types, message):
    world.types = types
    with pytest.raises(ParityFailed, match=message):
        make(onnx_path=in_precision(model, precision))
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("precision", "types"), [("int8", ["Float", "Int8"]), ("fp16", ["Half"]), ("bf16", ["BFloat16"])]
)
def test_a_plan_in_the_requested_precision_is_written(make, model, world, precision, types):
    world.types = types
    record = make(onnx_path=in_precision(model, precision))
    assert record.precision == precision
    assert record.layers[precision] == 1


@pytest.mark.parametrize("what", ["no signature", "not ONNX", "missing"])
def test_files_that_were_not_exported_are_refused(make, model, tmp_path, what):
    path = tmp_path / "other.onnx"
    if what == "no signature":
        with pytest.raises(SignatureError, match="no signature"):
            make(onnx_path=make_identity(path, None))
    elif what == "not ONNX":
        path.write_bytes(b"hello")
        with pytest.raises(ModelUnreadable, match="corrupt, or not an ONNX model"):
            make(onnx_path=path)
    else:
        with pytest.raises(ModelUnreadable, match="no such file"):
            make(onnx_path=path)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("batch", r"input shape is \(1, 1, 16, 16\)"),
        ("side", r"input shape is \(-1, 1, 32, 16\)"),
        ("height", r"input shape is \(-1, 1, -1, 16\)"),
        ("name", "input and output are sar, out"),
        ("type", "optical is HALF, but must be float32"),
    ],
)
def test_a_network_that_the_engine_could_not_feed_is_refused(make, model, what, message):
    changed = onnx.load(model)
    given, made = changed.graph.input[0].type.tensor_type, changed.graph.output[0]
    if what == "batch":
        given.shape.dim[0].dim_value = 1
    elif what == "side":
        given.shape.dim[2].dim_value = 32
    elif what == "height":
        given.shape.dim[2].dim_param = "H"
    elif what == "name":
        made.name = changed.graph.node[-1].output[0] = "out"
    else:
        made.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        changed.graph.node[-1].output[0] = "wide"
        changed.graph.node.append(onnx.helper.make_node("Cast", ["wide"], ["optical"], to=onnx.TensorProto.FLOAT16))
    onnx.save(changed, model)
    with pytest.raises(ExportUnsupported, match=message):
        make()


def test_a_tensorrt_that_does_not_start_is_an_error(make, world):
    world.works = False
    with pytest.raises(
        DeviceUnavailable, match=r"TensorRT 11.4.0.106 does not work on this machine .*nullptr.*driver"
    ):
        make()


def test_a_plan_that_fails_verification_is_not_written(make, folder):
    def verify(candidate):
        raise ParityFailed("parity is 12.0 dB")

    with pytest.raises(ParityFailed, match="parity is"):
        make(verify)
    assert left_in(folder) == []


def test_an_existing_plan_is_kept_until_the_new_one_is_verified(make, folder, world):
    make()
    before = {name: (folder / name).read_bytes() for name in left_in(folder)}
    with pytest.raises(OutputExists, match="--overwrite"):
        make()

    def verify(candidate):
        raise ParityFailed("no")

    with pytest.raises(ParityFailed):
        make(verify, overwrite=True, batch=(1, 1, 1))
    assert {name: (folder / name).read_bytes() for name in left_in(folder)} == before
    make(overwrite=True, batch=(1, 1, 1))
    assert load_record(folder / "model.plan").batch == (1, 1, 1)
    assert left_in(folder) == ["model.plan", "model.plan.json"]


@pytest.mark.parametrize("moves", range(4))
def test_plan_and_record_are_replaced_together_or_not_at_all(make, folder, monkeypatch, moves):
    make()
    before = {name: (folder / name).read_bytes() for name in left_in(folder)}
    replace, left = Path.replace, [moves]

    def failing(source, target):
        inside = folder in (source.parent, Path(target).parent) and "tmp" not in source.name
        if inside and left[0] == 0:
            left[0] = -1
            raise OSError(28, "No space left on device")
        left[0] -= inside
        moved = replace(source, target)
        if (folder / "model.plan").exists():
            load_record(folder / "model.plan")  # raises if the two do not match
        return moved

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputUnwritable, match="No space left"):
        make(overwrite=True, batch=(1, 1, 1))
    assert {name: (folder / name).read_bytes() for name in left_in(folder)} == before


def test_an_error_in_the_build_thread_is_raised_by_the_call(make, monkeypatch, ours, folder):
    def fails(self, network, config):
        raise RuntimeError("a bug of the bindings")

    monkeypatch.setattr(sys.modules["tensorrt"].Builder, "build_serialized_network", fails)
    with pytest.raises(RuntimeError, match="a bug of the bindings"):
        make()
    assert left_in(folder) == []


def times_in(file):
    return json.loads(file.read_bytes())["times"]


def test_timings_are_kept_for_the_next_build(make, tmp_path, world):
    cache = tmp_path / "timings"
    make(timing_cache=cache)
    file = cache / cache_name("tensorrt", world.version, world.gpu, "sm90.timing")
    assert times_in(file) == ["Float"]
    world.types = ["FP32"]
    make(timing_cache=cache, overwrite=True)
    assert times_in(file) == ["FP32", "Float"]


def test_timings_of_two_builds_at_once_are_both_kept(make, tmp_path, world):
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name("tensorrt", world.version, world.gpu, "sm90.timing")

    def on_progress(*step):  # another build ends during this one
        file.write_text(json.dumps({"key": f"{world.version} {world.gpu}", "times": ["theirs"]}))

    make(timing_cache=cache, on_progress=on_progress)
    assert times_in(file) == ["Float", "theirs"]


@pytest.mark.parametrize("held", [b'{"key": "11.4.0.106 Tesla T4", "times": ["foreign"]}', b"rubbish"])
def test_timings_of_another_gpu_are_ignored_with_a_warning(make, tmp_path, world, caplog, held):
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name("tensorrt", world.version, world.gpu, "sm90.timing")
    file.write_bytes(held)
    make(timing_cache=cache)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert times_in(file) == ["Float"]


def test_a_timing_cache_locked_by_another_build_is_only_a_warning(make, ours, tmp_path, world, monkeypatch, caplog):
    from sar2optical._utils.files import try_lock

    monkeypatch.setattr(export.timing_cache, "_LOCK_TIMEOUT", 0.0)
    cache = tmp_path / "timings"
    cache.mkdir()
    file = cache / cache_name("tensorrt", world.version, world.gpu, "sm90.timing")
    with file.with_name(file.name + ".lock").open("ab") as lock:
        assert try_lock(lock)
        make(timing_cache=cache)
    assert "locked by another build" in caplog.text
    assert not file.exists()


def test_a_failed_build_writes_no_timings(make, tmp_path, monkeypatch, ours):
    monkeypatch.setattr(sys.modules["tensorrt"].Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(ExportUnsupported, match=r"TensorRT 11.4.0.106 cannot build the plan"):
        make(timing_cache=tmp_path / "timings")
    assert not (tmp_path / "timings").exists()


def test_invalid_options_are_refused(ours, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for options, message in (
        ({"batch": (4, 2, 8)}, "batch sizes are"),
        ({"workspace": 0}, "workspace is 0"),
        ({"hardware_compatibility": "all"}, "hardware compatibility is 'all'"),
        ({"timing_cache": tmp_path / "file"}, "is not a folder"),
    ):
        with pytest.raises(OptionError, match=message):
            PlanOptions(**options)


def test_only_plans_are_written(ours, model, folder):
    with pytest.raises(ExportUnsupported, match=r"model.onnx: not a name of a plan: give .* in \.plan"):
        ours.build.build_plan(model, folder / "model.onnx", PlanOptions(), verify=None, rebuild="", on_progress=None)


# --------------------------------------------------------------------------------------------------------- the engine


@BOTH
def test_a_plan_runs_and_reports_its_device(run_plan, world, library):
    engine, sar = run_plan(batch=4, device="cuda"), chips(6)
    found = np.concatenate([engine.run(sar[:4]), engine.run(sar[4:])])
    np.testing.assert_array_equal(found, np.repeat(sar, 3, axis=1))
    assert (engine.backend, engine.precision, engine.batch, engine.streams) == (library, "fp32", 4, 2)
    assert engine.device == f"cuda ({world.gpu})"
    assert engine.signature == SMALL


@BOTH
def test_the_library_of_a_plan_is_told_by_its_first_bytes(make, folder, library):
    make()
    with open_engine(folder / "model.plan", options=EngineOptions(batch=2)) as engine:
        assert engine.backend == library
    other = {"tensorrt": "tensorrt_rtx", "tensorrt_rtx": "tensorrt"}[library]
    with pytest.raises(OptionError, match=rf"{other} does not run TensorRT.* plans: give {library}"):
        open_engine(folder / "model.plan", backend=other)


@BOTH
def test_the_caller_owns_the_result(run_plan):
    engine = run_plan(batch=1)
    first = engine.run(chips(1, seed=1))
    kept = first.copy()
    for seed in (2, 3, 4):
        engine.run(chips(1, seed))
    np.testing.assert_array_equal(first, kept)


@BOTH
def test_two_batches_are_in_flight_each_in_its_own_slot(run_plan, world):
    engine = run_plan(batch=1)
    engine.run(chips(1))
    engine.run(chips(1))
    world.waiting = threading.Barrier(2, timeout=5).wait  # passes only if both are in flight
    found = {}

    def go(seed):
        found[seed] = engine.run(chips(1, seed))

    world_threads = [threading.Thread(target=go, args=(seed,)) for seed in (1, 2)]
    for thread in world_threads:
        thread.start()
    for thread in world_threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(found[seed], np.repeat(chips(1, seed), 3, axis=1))


@BOTH
def test_a_batch_that_does_not_fit_is_halved(run_plan, world):
    engine, sar = run_plan(batch=5), chips(5)
    world.most = 3
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    world.given.clear()
    np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))
    assert [len(given) for given in world.given][-3:] == [2, 2, 2], (
        "the last piece is padded, not run in another size"
    )
    np.testing.assert_array_equal(world.given[-1], [sar[4], 0 * sar[4]])


def test_a_window_that_does_not_fit_alone_is_an_error(run_plan, world):
    engine = run_plan(batch=2)
    world.most = 0
    with pytest.raises(DeviceOutOfMemory, match=r"1 windows at once do not fit.*--batch-size"):
        engine.run(chips(2))
    world.most = float("inf")
    assert engine.run(chips(2)).shape == (2, 3, 16, 16)


@BOTH
def test_a_failed_execution_is_an_error_and_the_next_one_runs(run_plan, world):
    engine = run_plan(batch=1)
    engine.run(chips(1))
    engine.run(chips(1))
    world.executes = False
    with pytest.raises(InferenceFailed, match=r"TensorRT.* failed: Cask convolution execution failed"):
        engine.run(chips(1))
    world.executes = True
    for seed in (1, 2):
        np.testing.assert_array_equal(engine.run(chips(1, seed)), np.repeat(chips(1, seed), 3, axis=1))


@BOTH
def test_closing_twice_releases_everything(run_plan, world):
    engine = run_plan(batch=1)
    engine.run(chips(1))
    assert sorted(world.living) == ["engine", "runtime"]
    engine.close()
    engine.close()
    assert world.living == []
    with pytest.raises(InferenceFailed, match="is closed: open it again"):
        engine.run(chips(1))


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"version": "11.3.0.99"}, {}, ModelUnreadable, "built by TensorRT 11.4.0.106, but 11.3.0.99 is installed"),
        (
            {"gpu": "NVIDIA H200"},
            {},
            DeviceUnavailable,
            "built for NVIDIA H100 80GB HBM3, but this GPU is NVIDIA H200",
        ),
        ({"capability": (8, 0)}, {}, DeviceUnavailable, "compute capability 9.0"),
        ({"works": False}, {}, DeviceUnavailable, "does not work on this machine"),
        ({"loads": "Error Code 1: Serialization"}, {}, ModelUnreadable, "cannot load the plan .Error Code 1"),
        ({"loads": "Error Code 2: OutOfMemory"}, {}, DeviceOutOfMemory, "does not fit the GPU's memory"),
        ({}, {"device": "cpu"}, DeviceUnavailable, "device cpu is not available with tensorrt: give cuda"),
        ({}, {"precision": "int8"}, DeviceUnavailable, "the plan is fp32, not int8"),
        ({}, {"batch": 9}, OptionError, "batch size is 9: the plan accepts 1 to 8"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_before_it_is_loaded(
    make, ours, folder, world, monkeypatch, change, options, error, message
):
    make()
    for name, value in change.items():
        setattr(world, name, value)
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", world.version)
    if "loads" not in change and "works" not in change:
        monkeypatch.setattr(ours.engine.LIBRARY, "deserialize", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(error, match=message) as caught:
        ours.engine.open(folder / "model.plan", EngineOptions(**options))
    assert "\n" not in str(caught.value)
    if error is ModelUnreadable:
        assert "sar2opt-export identity.onnx model.plan" in str(caught.value)


@pytest.mark.parametrize("what", ["cut", "text", "no record", "record of another plan"])
def test_a_plan_with_a_damaged_file_is_refused(make, ours, folder, what):
    make()
    path = folder / "model.plan"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "text":
        path.write_bytes(b"not a plan, but long enough for a header")
    elif what == "no record":
        record_path(path).unlink()
    else:
        record = PlanRecord.from_json(record_path(path).read_text())
        text = record.to_json().replace(record.sha256, "0" * 64)
        record_path(path).write_text(text)
    with pytest.raises((ModelUnreadable, SignatureError)) as caught:
        ours.engine.open(path, EngineOptions())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize("change", ["names", "order", "type"])
def test_a_plan_with_other_tensors_is_refused(make, ours, folder, world, change):
    make()
    if change == "type":
        world.dtype = fake_tensorrt.real.DataType.HALF
    else:
        world.tensors = {"names": ("sar", "out"), "order": ("optical", "sar")}[change]
    with pytest.raises(ModelUnreadable, match="must be sar and optical in float32"):
        ours.engine.open(folder / "model.plan", EngineOptions())


@pytest.mark.parametrize("library", ["tensorrt_rtx"])
def test_compiled_kernels_are_kept_for_the_next_start(make, ours, folder, world, tmp_path, caplog):
    make()
    path, cache = folder / "model.plan", tmp_path / "cache"
    for starts in (1, 1):
        with ours.engine.open(path, EngineOptions()) as engine:
            engine.run(chips(1))
        assert world.compiled == starts
    (file,) = cache.iterdir()
    assert file.name.startswith(f"tensorrt_rtx-{world.version}-nvidia-rtx-a5000-")
    assert file.read_bytes() == b"kernels: all"
    file.write_bytes(b"rubbish")
    with caplog.at_level(logging.INFO), ours.engine.open(path, EngineOptions()) as engine:
        engine.run(chips(1))
    assert world.compiled == 2
    assert f"{file}: has no kernels for this GPU and driver: it is not used, and is replaced" in caplog.text
    assert file.read_bytes() == b"kernels: all"


@pytest.mark.parametrize("library", ["tensorrt_rtx"])
def test_a_cache_folder_that_cannot_be_made_is_only_a_warning(make, ours, folder, tmp_path, caplog):
    make()
    (tmp_path / "cache").write_text("a file")
    with ours.engine.open(folder / "model.plan", EngineOptions()) as engine:
        engine.run(chips(1))
    assert "cannot store compiled kernels" in caplog.text


@pytest.mark.parametrize("library", ["tensorrt_rtx"])
@pytest.mark.parametrize(("precision", "found"), [("auto", "fp16"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_an_onnx_file_is_built_in_memory(ours, model, world, precision, found):
    options = EngineOptions(device="cuda", precision=precision, batch=3)
    with open_engine(model, backend="tensorrt_rtx", options=options) as engine:
        assert engine.precision == found
        np.testing.assert_array_equal(engine.run(chips(2)), np.repeat(chips(2), 3, axis=1))


@pytest.mark.parametrize("library", ["tensorrt_rtx"])
def test_a_file_for_several_windows_is_run_in_each(ours, model):
    several = onnx.load(model)
    for value in (several.graph.input[0], several.graph.output[0]):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], "HW", strict=True):
            dim.dim_param = name
    onnx.helper.set_model_props(several, {METADATA_KEY: signature_of(window=16, windows=(32, 64)).to_json()})
    onnx.save(several, model)
    with open_engine(model, backend="tensorrt_rtx") as engine:
        for side in (64, 16, 32):
            engine.use_window(side)
            sar = np.random.default_rng(side).uniform(-1, 1, (1, 1, side, side)).astype(np.float32)
            np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))


@pytest.mark.parametrize("library", ["tensorrt_rtx"])
@pytest.mark.parametrize(("gpu", "capability"), [("NVIDIA H100", (9, 0)), ("Tesla V100", (7, 0))])
def test_a_card_that_the_library_does_not_name_is_refused_before_loading(
    make, ours, folder, model, world, gpu, capability
):
    make()
    world.gpu, world.capability, world.loads = gpu, capability, "it was loaded"
    for path in (folder / "model.plan", model):
        with pytest.raises(DeviceUnavailable, match=rf"does not run on {gpu} .*give --backend pytorch"):
            open_engine(path, backend="tensorrt_rtx")


# ------------------------------------------------------------------------------------------------------- the command


def export_plan(*arguments):
    from export.cli import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_builds_verifies_and_records(ours, world, model, folder):
    out = folder / "model.plan"
    result = export_plan(
        model, out, "--batch", 2, 4, 8, "--workspace", 0.5, "--timing-cache", folder.parent / "times"
    )
    assert result.exit_code == 0, result.output
    assert left_in(folder) == ["model.plan", "model.plan.json"]
    record = load_record(out)
    assert (record.batch, record.precision) == ((2, 4, 8), "fp32")
    assert float(record.parity["psnr"]) == float("inf")  # the fake of TensorRT is exact
    assert record.parity["source"] == "simulated"
    assert "--batch 2 4 8" in record.rebuild
    assert "--workspace 0.5" in record.rebuild
    with open_engine(out, backend="tensorrt", options=EngineOptions(device="cuda", batch=2)) as engine:
        sar = chips(2)
        np.testing.assert_array_equal(engine.run(sar), np.repeat(sar, 3, axis=1))


def test_the_command_refuses_a_plan_that_returns_another_image(ours, model, folder, monkeypatch):
    wrong = ours.engine.PlanEngine._infer
    monkeypatch.setattr(ours.engine.PlanEngine, "_infer", lambda self, sar: -wrong(self, sar))
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "dB" in result.stderr
    assert "Traceback" not in result.stderr
    assert left_in(folder) == []


def test_a_file_in_a_lower_precision_is_built_unchanged(ours, world, model, folder):
    in_precision(model, "int8")
    world.types = ["Int8"]
    result = export_plan(model, folder / "model.plan", "--precision", "fp16")
    assert result.exit_code == 1
    assert "its precision is int8, but --precision is fp16: give the fp32 file" in result.stderr
    assert left_in(folder) == []
    result = export_plan(model, folder / "model.plan", "--precision", "int8")  # needs no calibration data
    assert result.exit_code == 0, result.output
    assert load_record(folder / "model.plan").precision == "int8"


@pytest.mark.parametrize(("noise", "code"), [(0.01, 0), (0.04, 1)])  # 46 and 34 dB
def test_a_file_in_a_lower_precision_has_the_floor_of_its_precision(
    ours, world, model, folder, monkeypatch, noise, code
):
    in_precision(model, "int8")
    world.types = ["Int8"]
    exact = ours.engine.PlanEngine._infer
    noisy = np.random.default_rng(0).normal(0, noise, (1, 3, 16, 16)).astype(np.float32)
    monkeypatch.setattr(ours.engine.PlanEngine, "_infer", lambda self, sar: exact(self, sar) + noisy)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == code, result.output
    assert left_in(folder) == (["model.plan", "model.plan.json"] if code == 0 else [])
    if code:
        assert "at least 40 dB is required" in result.stderr


def test_without_tensorrt_the_command_names_the_extra(model, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = export_plan(model, folder / "model.plan")
    assert result.exit_code == 1
    assert "needs tensorrt: pip install 'sar2optical[tensorrt]'" in result.stderr
    assert left_in(folder) == []
