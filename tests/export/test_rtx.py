"""Plans of TensorRT for RTX: the real parser and builder, which need no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from export.quantize import Ranges, prepare, quantize
from export.subpixel import subpixel
from export.to_onnx import to_onnx
from sar2optical.engines.onnx_graph import metadata_of, plain, with_metadata
from sar2optical.engines.onnx_half import halve
from sar2optical.engines.registry import bundled, variants
from sar2optical.engines.rtx_cards import CARDS, targets_for
from sar2optical.engines.tensorrt_plan import PlanOptions, load_record, read_header
from sar2optical.errors import ExportUnsupported, ModelUnreadable, OptionError, OutputUnwritable, SignatureError
from sar2optical.models.fold import fold
from sar2optical.models.unet import GeneratorArguments, UNetGenerator
from sar2optical.signature import METADATA_KEY, PRECISION_KEY, ModelSignature
from tests.conftest import make_identity, save_onnx, signature_of
from tests.graphs import save_small_net

rtx = pytest.importorskip("sar2optical.engines.tensorrt_rtx", exc_type=ImportError)
build_plan = pytest.importorskip("export.to_tensorrt").build_plan

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
TARGETS = tuple(CARDS.values())
SMALL = signature_of(window=16)


def as_bundled():
    """The bundled generator in fp32, with its own window only."""
    model = plain(onnx.load(bundled()))
    signature = replace(ModelSignature.from_json(metadata_of(model)[METADATA_KEY]), windows=())
    return with_metadata(model, {METADATA_KEY: signature.to_json()})


@cache
def narrow():
    """A generator with transposed convolutions, traced."""
    signature = ModelSignature(name="published", bands=("VH",))
    return to_onnx(*fold(UNetGenerator(GeneratorArguments(in_channels=1, base_channels=2)).eval(), signature))


def as_published():
    """A generator as wide as the published ones, with random weights; tracing it would take ten seconds."""
    signature = ModelSignature(name="published", bands=("VH",))
    wide, _ = fold(UNetGenerator(GeneratorArguments(in_channels=1)).eval(), signature)
    weights, model = wide.state_dict(), onnx.ModelProto.FromString(narrow().SerializeToString())
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    return model


def in_precision(model, precision):
    if precision in ("bf16", "fp8"):
        model = subpixel(model)
    if precision in ("fp16", "bf16"):
        model = halve(model, precision)
    elif precision != "fp32":
        ranges = Ranges(defaultdict(lambda: 4.0), "minmax")
        model = quantize(prepare(model, precision), ranges, precision)
    return with_metadata(model, {PRECISION_KEY: precision})


@pytest.fixture(scope="module")
def generators():
    models = {"bundled": as_bundled(), "published": as_published()}
    return {(name, kind): in_precision(model, kind) for name, model in models.items() for kind in PRECISIONS}


def built(model, targets, batch=(1, 8, 32)):
    signature = ModelSignature.from_json(metadata_of(model)[METADATA_KEY])
    return rtx.build_plan_bytes(
        rtx.LIBRARY,
        model.SerializeToString(),
        signature,
        batch,
        path=Path("model.onnx"),
        configure=lambda config: rtx.set_targets(config, targets),
    )


WEIGHTS = {"bundled": 2.6e6, "published": 54.4e6}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bundled_generator_builds_for_each_card_that_has_the_precision(generators, precision, target):
    model = generators["bundled", precision]
    if target in targets_for(precision):
        plan = built(model, (target,))
        assert plan.startswith(b"vtrt")
        assert WEIGHTS["bundled"] * BYTES[precision] < len(plan) < WEIGHTS["bundled"] * BYTES[precision] + 6e6
    else:
        with pytest.raises(ExportUnsupported, match=rf"Cannot compile for target\(s\) {target}") as caught:
            built(model, (target,))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_generator_of_the_published_width_builds_for_all_cards_at_once(generators, precision):
    plan = built(generators["published", precision], targets_for(precision))
    assert WEIGHTS["published"] * BYTES[precision] < len(plan) < WEIGHTS["published"] * BYTES[precision] + 8e6


def test_a_bf16_transposed_convolution_is_refused_with_the_layer(generators):
    with pytest.raises(ExportUnsupported, match=r"deconv.*--subpixel on"):
        built(halve(narrow(), "bf16"), ("sm86",))


# Files, through the export.


def small_file(path, signature=SMALL):
    return make_identity(path, signature)


def plan_of(source, out, on_progress=None, **options):
    return build_plan(
        source, out, PlanOptions(**options), runtime="rtx", verify=None, rebuild="again", on_progress=on_progress
    )


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_plan_and_its_record_name_their_cards(tmp_path):
    record = plan_of(small_file(tmp_path / "m.onnx"), tmp_path / "m.plan", batch=(2, 4, 16), target=("ampere", "ada"))
    assert load_record(tmp_path / "m.plan") == record
    assert read_header(tmp_path / "m.plan") == ("tensorrt_rtx", tuple(map(int, record.tensorrt.split("."))))
    assert (record.library, record.targets) == ("tensorrt_rtx", ("sm80", "sm86", "sm89"))
    assert (record.batch, record.gpu, record.layers) == ((2, 4, 16), "none", {})


def test_the_batch_and_the_cards_decide_the_bytes(tmp_path):
    source = small_file(tmp_path / "m.onnx")
    kinds = [{}, {"batch": (1, 1, 1)}, {"target": ("sm86",)}, {}]
    hashes = [plan_of(source, tmp_path / "m.plan", overwrite=True, **kind).sha256 for kind in kinds]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]


PROCESS = """
import sys
from pathlib import Path
from export.to_tensorrt import build_plan
from sar2optical.engines.tensorrt_plan import PlanOptions
source, out = map(Path, sys.argv[1:3])
for _ in range(int(sys.argv[3])):
    build_plan(source, out, PlanOptions(overwrite=True), runtime="rtx", verify=None, rebuild="again")
"""


def in_processes(source, outs, repeats=1):
    """Build in one process for each output, all at once."""
    commands = [[sys.executable, "-c", PROCESS, source, out, str(repeats)] for out in outs]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors


def test_two_processes_build_the_same_bytes(tmp_path):
    outs = [tmp_path / "one.plan", tmp_path / "two.plan"]
    in_processes(bundled(), outs)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert load_record(outs[0]) == load_record(outs[1])


def test_two_builds_of_one_output_at_once_leave_a_whole_plan(tmp_path):
    out = tmp_path / "m.plan"
    in_processes(small_file(tmp_path / "m.onnx"), [out, out], repeats=4)
    load_record(out)  # raises if the two do not match
    assert left_in(tmp_path) == ["m.onnx", "m.plan", "m.plan.json"]


def test_ctrl_c_stops_a_build(tmp_path):
    steps = []

    def on_progress(*step):  # on the build's thread
        steps.append(step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.01)

    with pytest.raises(KeyboardInterrupt):
        plan_of(bundled(), tmp_path / "m.plan", on_progress)
    assert len(steps) < 60  # a whole build has more than 100
    assert left_in(tmp_path) == []


def test_an_error_in_the_callback_stops_the_build(tmp_path):
    steps = []

    def on_progress(*step):
        steps.append(step)
        raise OptionError("enough")

    with pytest.raises(OptionError, match="enough"):
        plan_of(bundled(), tmp_path / "m.plan", on_progress)
    assert len(steps) == 1
    assert left_in(tmp_path) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OutputUnwritable, match=r"m.plan: cannot be written \(File too large\)"):
            plan_of(bundled(), tmp_path / "m.plan")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("what", ["cut", "text", "no signature"])
def test_files_that_are_not_models_are_refused(tmp_path, what):
    path, error = tmp_path / "m.onnx", ModelUnreadable
    if what == "no signature":
        small_file(path, None)
        error = SignatureError
    else:
        path.write_bytes(bundled().read_bytes()[:100_000] if what == "cut" else b"hello")
    with pytest.raises(error, match=r"m\.onnx: "):
        plan_of(path, tmp_path / "m.plan")
    assert left_in(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (
            [helper.make_node("NoSuchOp", ["sar"], ["optical"], name="decoder.3")],
            {},
            r"cannot read the file \(decoder.3 \[NoSuchOp\]: ",
        ),
        (
            [helper.make_node("Conv", ["sar", "w"], ["optical"], name="decoder.4", pads=[1] * 4)],
            {"w": np.zeros((3, 2, 3, 3), np.float32)},
            "TensorRT for RTX .* cannot (read the file|build the plan)",
        ),
        ([helper.make_node("Concat", ["sar", "gone", "sar"], ["optical"], axis=1)], {}, "cannot read the file"),
    ],
)
def test_broken_graphs_are_refused_with_the_parsers_reason_in_one_line(tmp_path, nodes, constants, message):
    path = save_onnx(tmp_path / "odd.onnx", nodes, constants, SMALL)
    with pytest.raises(ExportUnsupported, match=message) as caught:
        plan_of(path, tmp_path / "m.plan")
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == ["odd.onnx"]


def test_weights_that_are_stored_in_fp16_are_widened(tmp_path):
    """A cast in the plan would run with every batch; the plan is as large as that of the widened file."""
    record = plan_of(bundled(), tmp_path / "m.plan", target=("sm86",))
    assert record.metadata["sar2optical.storage"] == "fp16"
    assert record.size > 4 * WEIGHTS["bundled"]
    assert record.signature.sides == (256, 512, 1024, 2048)


# The command.


def command(*arguments):
    from export.cli import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_builds_a_plan_for_cards_and_says_that_it_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("export.plans.first_card", lambda: None)
    out = tmp_path / "model.plan"
    result = command(
        small_file(tmp_path / "m.onnx"), out, "--runtime", "rtx", "--target", "ampere,blackwell", "--batch", 1, 4, 16
    )
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "cards sm80, sm86, sm120, sm121" in lines
    assert "plan not run: no GPU; its ONNX graph was verified" in lines
    record = load_record(out)
    assert record.parity == {"not run": "no GPU"}
    assert "--runtime rtx" in record.rebuild
    assert "--target ampere,blackwell" in record.rebuild
    assert record.batch == (1, 4, 16)


def test_an_exported_int8_file_is_built_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr("export.plans.first_card", lambda: None)
    out = tmp_path / "model.plan"
    source = variants(bundled())["int8"]
    result = command(source, out, "--runtime", "rtx", "--windows", "256,512", "--target", "sm89", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["precision"], found["targets"], found["not_run"]) == ("int8", ["sm89"], "no GPU")
    assert found["parity"]["psnr"] > 40  # of the file, when it was exported
    assert load_record(out).signature.sides == (256, 512)
    result = command(
        source,
        tmp_path / "auto.plan",
        "--runtime",
        "rtx",
        "--windows",
        "own",
        "--auto-window",
        512,
        "--target",
        "sm89",
    )
    assert result.exit_code == 1
    assert "auto window 512 is not a window of the file, which takes 256: give one of these" in result.stderr


def test_a_plan_keeps_the_window_of_auto(tmp_path, monkeypatch):
    monkeypatch.setattr("export.plans.first_card", lambda: None)
    source = save_small_net(tmp_path / "m.onnx", signature=signature_of(window=64))
    model = tmp_path / "wide.onnx"
    assert command(source, model, "--windows", "64,128", "--auto-window", 128).exit_code == 0
    for name, options, expected in (
        ("kept", (), 128),
        ("other", ("--auto-window", 64), 64),
        ("own", ("--windows", "own"), 64),
    ):
        out = tmp_path / f"{name}.plan"
        result = command(model, out, "--runtime", "rtx", "--target", "sm89", *options)
        assert result.exit_code == 0, result.output
        record = load_record(out)
        assert record.signature.default_window == expected, name
        assert ("--auto-window" in record.rebuild) == ("--auto-window" in options)


@pytest.mark.parametrize(
    ("out", "arguments", "message"),
    [
        ("m.plan", ["--runtime", "rtx", "--workspace", 1], "--workspace applies only to plans of TensorRT"),
        ("m.plan", ["--target", "ada"], "--target applies only to --runtime rtx, not to m.plan: remove"),
        ("m.plan", ["--windows", "own"], "--windows applies only to .onnx outputs and --runtime rtx"),
        ("m.plan", ["--auto-window", 16], "--auto-window applies only to .onnx outputs and --runtime rtx"),
        ("n.onnx", ["--runtime", "rtx"], "--runtime applies only to .plan outputs"),
        ("m.plan", ["--runtime", "rtx", "--target", "hopper"], "target is 'hopper': give turing, ampere"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, out, arguments, message):
    result = command(small_file(tmp_path / "m.onnx"), tmp_path / out, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert left_in(tmp_path) == ["m.onnx"]
