"""Version 2 of the signature: what it says, its JSON form and schema, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from sar2optical.errors import SignatureError
from sar2optical.signature import (
    Bound,
    Graph,
    ModelSignature,
    Noise,
    Output,
    Reflectance,
    Standardize,
    Stretch,
)
from tests.foreign.models import FOREIGN

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA = json.loads((DOCS / "signature.schema.json").read_text())

FULL = ModelSignature(
    name="full",
    bands=("VV|VH", "HH"),
    unit="amplitude",
    stretch=(Stretch(Bound(2, True), Bound(0.5), (0.0, 255.0)), Standardize(mean=0.1, std=0.25, clip=(0.0, 3.0))),
    window=64,
    windows=(128, 192),
    auto_window=128,
    channels=2,
    pixel_size=12.5,
    graph=Graph(
        input="a", input_layout="NHWC", input_type="fp16", output="b", output_layout="NHWC", output_type="fp16",
        batch=4, noise=Noise(name="z", shape=(3, 1), type="fp16", seed=7),
    ),
    output=Output(
        bands=("B2", "B3", "B4", "B8"), values=Reflectance(scale=1e-4, offset=-0.1), rgb=("B4", "B3", "B2"),
        shown=(0.0, 0.3),
    ),
)  # fmt: skip


def matches(value, schema):
    """Check a value against a JSON schema: the words that docs/signature.schema.json uses."""
    if reference := schema.get("$ref"):
        return matches(value, SCHEMA["$defs"][reference.rpartition("/")[2]])
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    number = isinstance(value, int | float) and not isinstance(value, bool)
    found = [
        not wanted or any(isinstance(value, kinds[kind]) and not isinstance(value, bool) for kind in wanted),
        "const" not in schema or (value == schema["const"] and type(value) is type(schema["const"])),
        "enum" not in schema or value in schema["enum"],
        not number or value >= schema.get("minimum", value),
        not number or "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
        not isinstance(value, list | str) or len(value) >= schema.get("minItems", schema.get("minLength", 0)),
        not isinstance(value, list) or len(value) <= schema.get("maxItems", len(value)),
        not schema.get("uniqueItems") or len(set(value)) == len(value),
        not isinstance(value, list) or all(matches(item, schema.get("items", {})) for item in value),
        "oneOf" not in schema or sum(matches(value, one) for one in schema["oneOf"]) == 1,
    ]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [
            set(schema.get("required", ())) <= value.keys(),
            schema.get("additionalProperties", True) or value.keys() <= known.keys(),
            all(matches(inner, known.get(name, {})) for name, inner in value.items()),
        ]
    return all(found)


def test_all_fields_are_read_back():
    assert not FULL.is_version_1
    assert ModelSignature.from_json(FULL.to_json()) == FULL
    assert json.loads(FULL.to_json())["version"] == 2


def test_a_signature_that_needs_nothing_new_is_written_as_version_1():
    plain = ModelSignature(name="x", bands=("VV",), pixel_size=10.0)
    assert plain.is_version_1
    assert plain.to_json() == (
        '{"version": 1, "name": "x", "bands": ["VV"], "unit": "db", "stretch": [["p1", "p99"]], "window": 256, '
        '"channels": 1, "pixel_size": 10.0}'
    )
    second = json.loads(FULL.to_json()) | {
        "bands": ["VV"], "unit": "db", "scaling": [{"stretch": ["p1", "p99"], "to": [-1, 1]}], "window": 256,
        "channels": 1, "pixel_size": 10, "name": "x", "batch": "free",
        "input": {"name": "", "layout": "NCHW", "type": "fp32"},
        "output": {
            "name": "", "layout": "NCHW", "type": "fp32", "bands": ["red", "green", "blue"], "range": [-1, 1],
            "rgb": ["red", "green", "blue"],
        },
    }  # fmt: skip
    for name in ("windows", "auto_window", "noise"):
        del second[name]
    assert ModelSignature.from_json(json.dumps(second)) == plain


@pytest.mark.parametrize(
    "signature", [FULL, *(ModelSignature.from_json(json.dumps(f.record)) for f in FOREIGN.values())]
)
def test_what_is_written_fits_the_schema(signature):
    assert matches(json.loads(signature.to_json()), SCHEMA)


def record(**changes):
    """Return FULL's record; `output__rgb=...` changes a field of a part, ... removes it."""
    made = json.loads(FULL.to_json())
    for name, new in changes.items():
        *parts, last = name.split("__")
        place = made
        for part in parts:
            place = place[part]
        if new is ...:
            del place[last]
        else:
            place[last] = new
    return made


WRONG = {
    "a field too few": ({"input": ...}, "input missing"),
    "a field too many": ({"clip": [0, 1]}, "clip unknown"),
    "a field of a part too few": ({"output__rgb": ...}, "rgb missing"),
    "a misspelt field of a part": ({"noise__sede": 3}, "sede unknown"),
    "an unknown layout": ({"input__layout": "CHWN"}, "CHWN"),
    "an unknown type": ({"output__type": "int8"}, "int8"),
    "a range of its own": ({"scaling": [{"stretch": [0, 1], "to": [0, 10]}] * 2}, "[0.0, 10.0]"),
    "a deviation of nothing": ({"scaling": [{"mean": 0, "std": 0}] * 2}, "standard deviation 0"),
    "a clip upside down": ({"scaling": [{"mean": 0, "std": 1, "clip": [5, -5]}] * 2}, "the lower one first"),
    "neither stretch nor mean": ({"scaling": [{"std": 1}] * 2}, "mean missing"),
    "range and reflectance": ({"output__range": [0, 1]}, "either range or reflectance"),
    "reflectance without what is shown": ({"output__shown": ...}, "shown is missing"),
    "reflectance times 0": ({"output__reflectance": {"scale": 0, "offset": 0}}, "scale above 0"),
    "a colour that is no band": ({"output__rgb": ["B4", "B3", "red"]}, "three of the output bands"),
    "two colours": ({"output__rgb": ["B4", "B3"]}, "three of the output bands"),
    "a band named twice": ({"output__bands": ["B4", "B3", "B4", "B2"]}, "a name of its own"),
    "a band named all": ({"output__bands": ["B4", "B3", "all", "B2"]}, "rgb and all are no names"),
    "a batch of nothing": ({"batch": 0}, "batch is 0"),
    "a batch that is no number": ({"batch": "any"}, "whole number"),
    "noise of another distribution": ({"noise__distribution": "uniform"}, "'uniform' is not supported"),
    "noise without a shape": ({"noise__shape": []}, "positive lengths"),
    "a negative seed": ({"noise__seed": -1}, "seed of 0 or more"),
    "a scaling too few": ({"scaling": [{"mean": 0, "std": 1}]}, "one stretch per band"),
    "an unknown unit": ({"unit": "decibel"}, "decibel"),
    "no object": ({"input": "sar"}, "JSON object"),
    "half a pixel": ({"window": 224.5}, "window is 224.5"),
    "half a channel": ({"channels": 2.5}, "channels is 2.5"),
    "letters for bands": ({"bands": "VV"}, "give a list of names"),
    "letters for output bands": ({"output__bands": "rgb", "output__rgb": "rgb"}, "give a list of names"),
}
NOT_IN_SCHEMA = ("a scaling too few", "a clip upside down", "a colour that is no band", "a band named all")
"""Faults that a JSON schema cannot see."""


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_shown_with_the_page_that_explains_it(kind):
    changes, said = WRONG[kind]
    with pytest.raises(SignatureError, match=re.escape(said)) as caught:
        ModelSignature.from_json(json.dumps(record(**changes)), source="sig.json")
    assert str(caught.value).startswith("sig.json: malformed signature (")
    assert "docs/signature.md" in str(caught.value)
    assert matches(record(**changes), SCHEMA) == (kind in NOT_IN_SCHEMA)


def test_a_name_that_is_given_twice_is_refused():
    twice = FULL.to_json()[:-1] + ', "unit": "power"}'
    with pytest.raises(SignatureError, match="unit is given twice"):
        ModelSignature.from_json(twice)


def test_version_1_with_names_of_version_2_is_refused():
    # Read as version 1, its range would be [-1, 1] whatever it says.
    first = json.loads(ModelSignature(name="m").to_json())
    assert first["version"] == 1
    with pytest.raises(SignatureError, match="version 1 has no output: give version 2"):
        ModelSignature.from_json(json.dumps({**first, "output": {"range": [0, 1]}}))
    assert ModelSignature.from_json(json.dumps({**first, "note": "of another tool"})).name == "m"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unit", "unit is null, so unknown: give dn, amplitude"),
        ("pixel_size", "give metres on the ground, or leave it out"),
        ("output__rgb", r"output\.rgb is null"),
        ("input__layout", r"input\.layout is null"),
        ("scaling", "scaling is null"),
    ],
)
def test_null_is_refused_with_what_to_give(name, said):
    with pytest.raises(SignatureError, match=said):
        ModelSignature.from_json(json.dumps(record(**{name: None})))
    noted = {**record(), "observed": {"runs": [None]}}
    assert ModelSignature.from_json(json.dumps(noted)) == FULL
    assert matches(noted, SCHEMA)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "sig.json").write_text(FULL.to_json())
    assert ModelSignature.read(tmp_path / "sig.json") == FULL
    with pytest.raises(SignatureError, match=r"none\.json: cannot be read"):
        ModelSignature.read(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SignatureError, match="cannot be read"):
        ModelSignature.read(tmp_path / "binary.json")


def test_the_example_of_the_documentation_is_read_and_fits_the_schema():
    page = (DOCS / "signature.md").read_text()
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert ModelSignature.from_json(json.dumps(example)).output.bands[-1] == "B12"
    assert matches(example, SCHEMA)
    for part in (SCHEMA, SCHEMA["properties"]["output"]):
        for name in part["properties"].keys() - {"version", "name", "input", "output", "layout", "type"}:
            assert f"`{name}`" in page or f"`output.{name}`" in page


def test_the_checker_of_the_schema_finds_faults():
    assert matches(record(), SCHEMA)
    for change in ({"version": 1}, {"version": True}, {"window": 0}, {"window": 1.5}, {"windows": ["256"]}):
        assert not matches(copy.deepcopy(record()) | change, SCHEMA)
