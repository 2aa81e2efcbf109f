"""Records of plans: they are read back, and a plan that does not fit this machine is refused before it is loaded."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace

import pytest

from sar2optical.engines.rtx_cards import refuse_card, targets_named
from sar2optical.engines.tensorrt_plan import (
    PlanRecord,
    cache_name,
    check_fit,
    check_profile,
    driver_version,
    load_record,
    parse_version,
    read_header,
    record_path,
)
from sar2optical.errors import DeviceUnavailable, ModelUnreadable, OptionError, SignatureError
from tests.conftest import BYTES

H100 = "NVIDIA H100 80GB HBM3"
PLAN = struct.pack("<4sIQQ4B", b"ftrt", 0, 7, 7, 11, 4, 0, 106) + b"weights"
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


def test_a_record_is_readable_json():
    written = json.loads(RECORD.to_json())
    assert written["batch"] == [1, 8, 32]
    assert written["signature"]["window"] == 256
    assert written["compute_capability"] == [9, 0]
    assert written["rebuild"] == "sar2opt-export model.onnx model.plan"


def test_infinite_figures_leave_the_record_valid_json():
    record = replace(RECORD, parity={"psnr_db": float("inf")})
    written = json.loads(record.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert written["parity"] == {"psnr_db": "inf"}


def test_a_record_is_stored_beside_its_plan(tmp_path):
    assert record_path(tmp_path / "model.plan") == tmp_path / "model.plan.json"
    assert load_record(put(tmp_path)) == RECORD


def test_a_plan_without_its_record_is_refused(tmp_path):
    path = put(tmp_path)
    record_path(path).unlink()
    with pytest.raises(SignatureError, match=r"its record model.plan.json is missing.*keep the two files together"):
        load_record(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "record is not readable"),
        ("[1]", "record is not readable"),
        ("{}", "record is not readable"),
        ("[" * 100_000, "record is not readable"),
        (RECORD.to_json()[:200], "record is not readable"),
        (altered(version=2), "version 2, but this release reads 1"),
        (altered(batch=[8, 4, 1]), "malformed"),
        (altered(batch=[8]), "malformed"),
        (altered(batch=None), "malformed"),
        (altered(compute_capability=[9, 0, 1]), "malformed"),
        (altered(hardware_compatibility="all"), "hardware compatibility is 'all'"),
        (altered(tensorrt=11), "tensorrt is 11, not text"),
        (altered(layers=[1]), "must be a JSON object"),
        (altered(size=float("inf")), "malformed"),
        (altered(signature={}), "signature is not readable"),
        (json.dumps({"version": 1}), "malformed"),
    ],
)
def test_malformed_records_are_refused_in_one_line(tmp_path, record, message):
    path = put(tmp_path, record=record)
    with pytest.raises(SignatureError, match=message) as caught:
        load_record(path)
    assert str(record_path(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_not_text_is_refused(tmp_path):
    path = put(tmp_path)
    record_path(path).write_bytes(b"\xff\xfe{")
    with pytest.raises(SignatureError, match="record is not readable"):
        load_record(path)


@pytest.mark.parametrize(("plan", "found"), [(PLAN[:-1], "34 bytes, not 35"), (PLAN[:-1] + b"S", "sha256")])
def test_a_record_of_another_plan_is_refused(tmp_path, plan, found):
    with pytest.raises(ModelUnreadable, match=f"does not belong to model.plan.json .*{found}.*{RECORD.rebuild}"):
        load_record(put(tmp_path, plan=plan))


def test_the_version_is_read_from_the_header(tmp_path):
    assert read_header(put(tmp_path)) == ("tensorrt", (11, 4, 0, 106))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"", r"truncated \(0 bytes"),
        (PLAN[:27], r"truncated \(27 bytes, its header alone has 28\)"),
        (b"\x08\x08" * 20, "not a TensorRT plan"),
    ],
)
def test_files_that_are_not_plans_are_refused_in_one_line(tmp_path, plan, message):
    path = put(tmp_path, plan=plan)
    with pytest.raises(ModelUnreadable, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(ModelUnreadable, match=r"none.plan: cannot be read"):
        read_header(tmp_path / "none.plan")


def fit(record=RECORD, **here):
    machine = {
        "header_version": (11, 4, 0, 106),
        "installed": "11.4.0.106",
        "gpu_name": H100,
        "compute_capability": (9, 0),
    }
    check_fit(record, source="model.plan", **{**machine, **here})


def test_a_plan_fits_the_machine_that_built_it():
    fit()


def test_another_tensorrt_version_is_refused_with_the_command_that_rebuilds():
    with pytest.raises(
        ModelUnreadable, match=r"built by TensorRT 11.4.0.106, but 11.3.0.99 is installed.*sar2opt-export"
    ):
        fit(installed="11.3.0.99")
    with pytest.raises(
        ModelUnreadable, match=r"built by TensorRT 10.16.1.11, but its record names version 11.4.0.106"
    ):
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
        with pytest.raises(DeviceUnavailable, match=f"{name}.*build it again on this machine: sar2opt-export"):
            fit(record, gpu_name=name, compute_capability=capability)


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 4), (1, 8, 4), (1, 2)])
def test_batch_sizes_that_do_not_ascend_are_refused(batch):
    with pytest.raises(OptionError, match="batch sizes are"):
        check_profile(batch)


def test_versions_are_parsed_with_packaging_suffixes():
    assert parse_version("10.13.3.9.post1") == (10, 13, 3, 9)
    assert parse_version("11.4") == (11, 4, 0, 0)


def test_caches_are_named_by_library_version_and_gpu():
    assert (
        cache_name("tensorrt", "11.4.0.106", H100, "sm90.timing")
        == "tensorrt-11.4.0.106-nvidia-h100-80gb-hbm3-sm90.timing"
    )
    names = {
        cache_name(*key)
        for key in (("tensorrt", "11", "a", "x"), ("tensorrt", "10", "a", "x"), ("tensorrt", "11", "b", "x"))
    }
    assert len(names) == 3


RTX = replace(
    RECORD, library="tensorrt_rtx", tensorrt="1.7.1.116", targets=("sm86", "sm89"), layers={}, gpu="none",
    compute_capability=(0, 0), sha256=hashlib.sha256(b"vtrt" + PLAN[4:]).hexdigest(),
)  # fmt: skip


def test_the_library_is_told_by_the_first_bytes(tmp_path):
    plan = struct.pack("<4sIQQ4B", b"vtrt", 0, 2, 7, 1, 7, 1, 116)
    assert read_header(put(tmp_path, plan)) == ("tensorrt_rtx", (1, 7, 1, 116))


def test_a_plan_for_rtx_fits_the_cards_of_its_targets():
    here = {"header_version": (1, 7, 1, 116), "installed": "1.7.1.116"}
    assert PlanRecord.from_json(RTX.to_json()) == RTX
    fit(RTX, gpu_name="NVIDIA GeForce RTX 3080", compute_capability=(8, 6), **here)
    fit(RTX, gpu_name="NVIDIA L4", compute_capability=(8, 9), **here)
    for name, capability in (A100, T4, H200):
        with pytest.raises(DeviceUnavailable, match=f"built for sm86, sm89, but {name} has .*: build it again"):
            fit(RTX, gpu_name=name, compute_capability=capability, **here)
    with pytest.raises(ModelUnreadable, match=r"built by TensorRT for RTX 1.7.1.116, but 1.6.0.1 is installed"):
        fit(RTX, gpu_name="NVIDIA L4", compute_capability=(8, 9), **{**here, "installed": "1.6.0.1"})


@pytest.mark.parametrize(
    ("names", "precision", "found"),
    [
        ((), "fp32", ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")),
        ((), "bf16", ("sm80", "sm86", "sm89", "sm120", "sm121")),
        ((), "fp8", ("sm89", "sm120", "sm121")),
        (("blackwell", "ampere"), "fp16", ("sm80", "sm86", "sm120", "sm121")),
        (("sm86", "ada"), "int8", ("sm86", "sm89")),
    ],
)
def test_targets_have_names(names, precision, found):
    assert targets_named(names, precision) == found


@pytest.mark.parametrize(
    ("names", "precision", "message"),
    [
        (("hopper",), "fp32", "target is 'hopper': give turing, ampere, ada, blackwell, sm75"),
        (("turing", "ada"), "bf16", "bf16 does not build for sm75: give --target sm80,sm86,"),
        (("ampere",), "fp8", "fp8 does not build for sm80, sm86: give --target sm89,sm120"),
    ],
)
def test_targets_that_a_precision_lacks_are_refused(names, precision, message):
    with pytest.raises(OptionError, match=message):
        targets_named(names, precision)


@pytest.mark.parametrize(("name", "capability"), [H200, ("Tesla V100", (7, 0)), ("NVIDIA B200", (10, 0))])
def test_cards_that_the_library_does_not_name_are_refused_with_an_alternative(name, capability):
    with pytest.raises(DeviceUnavailable, match=f"does not run on {name} .*: give --backend pytorch"):
        refuse_card(name, capability)


def test_the_driver_version_is_found_in_the_text_of_linux():
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12"
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"
    assert [driver_version(text) for text in (closed, opened, "")] == ["535.104.05", "580.65.06", "unknown"]
