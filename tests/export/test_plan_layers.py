"""Precisions of a plan's layers, from reports of the engine inspector."""

from __future__ import annotations

import json

import pytest

from export.plan_layers import layers_by_precision, precision_problem


def layer(*types, key="Format/Datatype", **more):
    given, made = types[0], types[-1]
    return {"Name": "x", "LayerType": "CaskConvolution", "Inputs": [{key: given}], "Outputs": [{key: made}], **more}


def test_layers_are_counted_by_the_types_of_inputs_and_outputs():
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


def test_a_report_of_names_only_has_no_layers_of_a_known_type():
    assert layers_by_precision(json.dumps({"Layers": ["conv 1", "conv 2"]})) == {}


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": [{"Inputs": [1]}]}'])
def test_text_that_is_not_a_report_of_layers_is_refused(report):
    with pytest.raises(ValueError, match=r"report|Expecting"):
        layers_by_precision(report)


@pytest.mark.parametrize(
    ("precision", "layers", "problem"),
    [
        ("fp32", {"fp32": 17}, None),
        ("fp16", {"fp32": 1, "fp16": 16}, None),
        ("int8", {"fp32": 2, "int8": 15}, None),
        ("int8", {"fp32": 17}, "the plan has no int8 layers (found: 17 fp32)"),
        ("bf16", {"fp16": 17}, "the plan has no bf16 layers (found: 17 fp16)"),
        ("fp32", {"fp32": 16, "fp16": 1}, "the plan has layers below fp32 (found: 16 fp32, 1 fp16)"),
        ("fp32", {}, "the plan has no fp32 layers (found: none of a known type)"),
    ],
)
def test_a_plan_must_compute_in_the_requested_precision(precision, layers, problem):
    assert precision_problem(precision, layers) == problem
