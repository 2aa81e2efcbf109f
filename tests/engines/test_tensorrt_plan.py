"""Records beside plans: what they say is read back, and a pair that does not fit is refused before it is loaded."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace

import pytest

from sar2optical.engines.tensorrt_plan import (
    PlanRecord,
    cache_name,
    check_fit,
    check_profile,
    driver_version,
    lacking,
    layers_by_precision,
    load_record,
    parse_version,
    read_header,
    record_path,
)
from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OptionError, SignatureError
from tests.conftest import BYTES

H100 = "NVIDIA H100 80GB HBM3"
PLAN = struct.pack("<IIQQ4B", 0x74727466, 0, 7, 7, 11, 4, 0, 106) + b"weights"
RECORD = PlanRecord(
    signature=BYTES,
    precision="int8",
    layers={"fp32": 2, "int8": 15},
    batch=(1, 8, 32),
    onnx_sha256="ab" * 32,
    tensorrt="11.4.0.106",
    cuda="13.0",
    driver="580.65.06",
    gpu=H100,
    compute_capability=(9, 0),
    sha256=hashlib.sha256(PLAN).hexdigest(),
    size=len(PLAN),
    rebuild="sar2opt-export model.onnx model.plan",
    parity={"psnr_db": 46.5, "chips": "16 val"},
    metadata={"sar2optical.parity_psnr_db": "46.50"},
)


def put(folder, plan=PLAN, record=RECORD):
    path = folder / "model.plan"
    path.write_bytes(plan)
    record_path(path).write_text(record if isinstance(record, str) else record.to_json())
    return path


def altered(**changes):
    return json.dumps({**json.loads(RECORD.to_json()), **changes})


def test_a_record_reads_back_equal():
    assert PlanRecord.from_json(RECORD.to_json()) == RECORD


def test_a_record_says_what_people_look_for():
    said = json.loads(RECORD.to_json())
    assert said["batch"] == [1, 8, 32]
    assert said["signature"]["window"] == 256
    assert said["compute_capability"] == [9, 0]
    assert said["rebuild"] == "sar2opt-export model.onnx model.plan"


def test_figures_that_are_no_numbers_leave_the_record_json():
    record = replace(RECORD, parity={"psnr_db": float("inf")})
    said = json.loads(record.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["parity"] == {"psnr_db": "inf"}


def test_a_record_lies_beside_its_plan(tmp_path):
    assert record_path(tmp_path / "model.plan") == tmp_path / "model.plan.json"
    assert load_record(put(tmp_path)) == RECORD


def test_a_plan_without_its_record_is_refused(tmp_path):
    path = put(tmp_path)
    record_path(path).unlink()
    with pytest.raises(SignatureError, match=r"no model.plan.json beside it.*keep the two together"):
        load_record(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "not readable"),
        ("[1]", "not readable"),
        ("{}", "not readable"),
        ("[" * 100_000, "not readable"),
        (RECORD.to_json()[:200], "not readable"),
        (altered(version=2), "version 2, this release reads 1"),
        (altered(batch=[8, 4, 1]), "malformed"),
        (altered(batch=[8]), "malformed"),
        (altered(batch=None), "malformed"),
        (altered(compute_capability=[9, 0, 1]), "malformed"),
        (altered(hardware_compatibility="all"), "hardware compatibility is 'all'"),
        (altered(tensorrt=11), "tensorrt is 11, no text"),
        (altered(layers=[1]), "no table"),
        (altered(size=float("inf")), "malformed"),
        (altered(signature={}), "signature is not readable"),
        (json.dumps({"version": 1}), "malformed"),
    ],
)
def test_records_that_say_something_else_are_refused_in_one_line(tmp_path, record, message):
    path = put(tmp_path, record=record)
    with pytest.raises(SignatureError, match=message) as caught:
        load_record(path)
    assert str(record_path(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_no_text_is_refused(tmp_path):
    path = put(tmp_path)
    record_path(path).write_bytes(b"\xff\xfe{")
    with pytest.raises(SignatureError, match="not readable"):
        load_record(path)


@pytest.mark.parametrize(("plan", "found"), [(PLAN[:-1], "34 bytes, not 35"), (PLAN[:-1] + b"S", "sha256")])
def test_a_plan_and_a_record_of_another_do_not_pass_as_a_pair(tmp_path, plan, found):
    with pytest.raises(ModelUnreadable, match=f"does not belong to model.plan.json .*{found}.*{RECORD.rebuild}"):
        load_record(put(tmp_path, plan=plan))


def test_the_version_is_read_off_the_header(tmp_path):
    assert read_header(put(tmp_path)) == (11, 4, 0, 106)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"", "0 bytes"),
        (PLAN[:27], "27 bytes, a plan's header alone has 28"),
        (b"\x08\x08" * 20, "not as a TensorRT"),
    ],
)
def test_files_that_are_no_plans_are_refused_in_one_line(tmp_path, plan, message):
    path = put(tmp_path, plan=plan)
    with pytest.raises(ModelUnreadable, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelUnreadable, match=r"none.plan: cannot be read"):
        read_header(tmp_path / "none.plan")


def fit(record=RECORD, **here):
    known = {
        "header_version": (11, 4, 0, 106),
        "tensorrt_version": "11.4.0.106",
        "gpu_name": H100,
        "compute_capability": (9, 0),
    }
    check_fit(record, source="model.plan", **{**known, **here})


def test_a_plan_fits_where_it_was_built():
    fit()


def test_another_tensorrt_is_refused_with_the_command_that_helps():
    with pytest.raises(
        ModelUnreadable, match=r"built by TensorRT 11.4.0.106, 11.3.0.99 is installed.*sar2opt-export"
    ):
        fit(tensorrt_version="11.3.0.99")
    with pytest.raises(ModelUnreadable, match=r"header says TensorRT 10.16.1.11, its record 11.4.0.106"):
        fit(header_version=(10, 16, 1, 11))


H200, A100, T4 = ("NVIDIA H200", (9, 0)), ("NVIDIA A100", (8, 0)), ("Tesla T4", (7, 5))


@pytest.mark.parametrize(
    ("level", "runs", "refused"),
    [
        ("none", [(H100, (9, 0))], [H200, A100, T4]),
        ("same_compute_capability", [(H100, (9, 0)), H200], [A100, T4]),
        ("ampere_plus", [(H100, (9, 0)), H200, A100], [T4]),
    ],
)
def test_a_plan_fits_the_gpus_of_its_compatibility_level(level, runs, refused):
    record = replace(RECORD, hardware_compatibility=level)
    for name, capability in runs:
        fit(record, gpu_name=name, compute_capability=capability)
    for name, capability in refused:
        with pytest.raises(DeviceUnavailable, match=f"{name}.*build it again here: sar2opt-export"):
            fit(record, gpu_name=name, compute_capability=capability)


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 4), (1, 8, 4), (1, 2)])
def test_batch_sizes_that_do_not_rise_are_refused(batch):
    with pytest.raises(OptionError, match="batch sizes are"):
        check_profile(batch)


def test_versions_are_read_with_what_packagers_add():
    assert parse_version("10.13.3.9.post1") == (10, 13, 3, 9)
    assert parse_version("11.4") == (11, 4, 0, 0)


def test_timing_caches_are_named_for_what_they_hold_for():
    assert cache_name("11.4.0.106", H100, (9, 0)) == "tensorrt-11.4.0.106-nvidia-h100-80gb-hbm3-sm90.timing"
    names = {cache_name(*key) for key in (("11.4", "a", (9, 0)), ("11.3", "a", (9, 0)), ("11.4", "b", (9, 0)))}
    assert len(names) == 3


def test_the_driver_is_found_in_what_linux_says_of_it():
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12"
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"
    assert [driver_version(text) for text in (closed, opened, "")] == ["535.104.05", "580.65.06", "unknown"]


def layer(*types, key="Format/Datatype", **more):
    given, made = types[0], types[-1]
    return {"Name": "x", "LayerType": "CaskConvolution", "Inputs": [{key: given}], "Outputs": [{key: made}], **more}


def test_layers_are_counted_by_what_they_take_and_give():
    layers = [
        layer("Int8", "Int8"),
        layer("Thirty-two wide channel vectorized row major Int8 format.", "Float"),
        layer("Half(64,1:8,16,4)", "Half"),
        layer("Row major linear FP16 format"),
        layer("BFloat16", key="DataType"),
        layer("FP8", key="DataType", LayerType="kgen"),
        layer("N/A due to dynamic shapes", Weights={"Type": "Half", "Count": 9}),
        layer("Int32", LayerType="kgen"),
    ]
    found = layers_by_precision(json.dumps({"Layers": layers, "Bindings": ["sar"]}))
    assert found == {"fp32": 1, "fp16": 3, "bf16": 1, "int8": 2, "fp8": 1}


def test_layers_that_move_data_do_not_count_as_arithmetic():
    layers = [layer("Float", "Int8", LayerType=name) for name in ("Reformat", "Quantize", "Constant")]
    assert layers_by_precision(json.dumps({"Layers": [*layers, layer("Float")]})) == {"fp32": 1}


def test_a_plan_that_tells_names_only_has_no_layers_of_a_known_type():
    assert layers_by_precision(json.dumps({"Layers": ["conv 1", "conv 2"]})) == {}


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": [{"Inputs": [1]}]}'])
def test_what_is_no_report_of_layers_is_refused(report):
    with pytest.raises(ValueError, match=r"report|Expecting"):
        layers_by_precision(report)


@pytest.mark.parametrize(
    ("precision", "layers", "complaint"),
    [
        ("fp32", {"fp32": 17}, None),
        ("fp16", {"fp32": 1, "fp16": 16}, None),
        ("int8", {"fp32": 2, "int8": 15}, None),
        ("int8", {"fp32": 17}, "asked int8, the plan has no such layer, but 17 of fp32"),
        ("bf16", {"fp16": 17}, "asked bf16, the plan has no such layer, but 17 of fp16"),
        ("fp32", {"fp32": 16, "fp16": 1}, "asked fp32, the plan has layers: 16 of fp32, 1 of fp16"),
        ("fp32", {}, "asked fp32, the plan has no such layer, but none of a known type"),
    ],
)
def test_a_plan_must_compute_in_the_precision_that_was_asked(precision, layers, complaint):
    assert lacking(precision, layers) == complaint
