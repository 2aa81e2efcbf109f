"""What a model says about itself, and how it is read back."""

from __future__ import annotations

import json
import math

import pytest

from sar2optical.errors import SignatureError
from sar2optical.signature import METADATA_KEY, Bound, ModelSignature, Stretch, alternatives, listed

TWO_BANDS = ModelSignature(
    name="two",
    bands=("VV", "VH"),
    unit="db",
    stretch=(Stretch(Bound(-25), Bound(0)), Stretch(Bound(1, True), Bound(-3.5))),
    window=512,
    channels=2,
)
SIGNATURES = {
    "default": ModelSignature(name="default"),
    "two bands, one with a percentile and a value": TWO_BANDS,
    "VV or VH": ModelSignature(name="either", bands=("VV|VH",)),
    "one band in three channels": ModelSignature(name="copies", channels=3),
    "a name beyond ASCII": ModelSignature(name='Łódź "8×8"\n'),
    "a stretch of many digits": ModelSignature(
        name="digits", unit="amplitude", stretch=(Stretch(Bound(0.123456789), Bound(1234567.25)),)
    ),
    "a percentile of many digits": ModelSignature(
        name="digits", stretch=(Stretch(Bound(1 / 3, True), Bound(99.99999, True)),)
    ),
    "bytes": ModelSignature(name="bytes", unit="byte", stretch=(Stretch(Bound(0), Bound(255)),)),
}


def changed(**fields):
    """Give the JSON form of a good signature with some fields replaced; None leaves a field out."""
    record = {**json.loads(TWO_BANDS.to_json()), **fields}
    return json.dumps({key: value for key, value in record.items() if value is not None})


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_what_is_written_reads_back_equal(signature):
    assert ModelSignature.from_json(signature.to_json()) == signature


def test_the_written_form_is_the_one_that_other_programs_read():
    assert METADATA_KEY == "sar2optical.signature"
    assert json.loads(TWO_BANDS.to_json()) == {
        "version": 1,
        "name": "two",
        "bands": ["VV", "VH"],
        "unit": "db",
        "stretch": [["-25", "0"], ["p1", "-3.5"]],
        "window": 512,
        "channels": 2,
    }


def test_alternatives_are_split_and_named():
    assert alternatives("VV|VH") == ("VV", "VH")
    assert alternatives("VH") == ("VH",)
    assert listed("VV|VH") == "VV or VH"
    assert listed("VV", "VH") == "VV, VH"
    with pytest.raises(ValueError, match="a polarisation has no name"):
        ModelSignature(name="x", bands=("VV|",))


def test_a_form_written_by_hand_is_read():
    text = (
        '{"version": 1, "name": "mine", "bands": ["VH"], "unit": "amplitude", '
        '"stretch": [["0", "p99"]], "window": 256, "channels": 1}'
    )
    expected = ModelSignature(
        name="mine", bands=("VH",), unit="amplitude", stretch=(Stretch(Bound(0), Bound(99, True)),)
    )
    assert ModelSignature.from_json(text) == expected


def test_a_pixel_size_is_optional_and_positive():
    sized = ModelSignature(name="x", pixel_size=10.0)
    assert json.loads(sized.to_json())["pixel_size"] == 10
    assert ModelSignature.from_json(sized.to_json()) == sized
    assert "pixel_size" not in ModelSignature(name="x").to_json()
    for wrong in (0, -10, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="pixel size"):
            ModelSignature(name="x", pixel_size=wrong)


def test_the_window_of_auto_is_one_of_the_models_and_optional():
    wide = ModelSignature(name="x", windows=(512, 1024), auto_window=512)
    assert json.loads(wide.to_json())["auto_window"] == 512
    assert ModelSignature.from_json(wide.to_json()) == wide
    assert wide.default_window == 512
    assert wide.in_window(1024) == ModelSignature(name="x", window=1024)
    plain = ModelSignature(name="x", windows=(512, 1024))
    assert "auto_window" not in plain.to_json()
    assert ModelSignature.from_json(plain.to_json()).default_window == 256
    with pytest.raises(ValueError, match="auto window 2048 is not a window of the model: give one of 256, 512, 1024"):
        ModelSignature(name="x", windows=(512, 1024), auto_window=2048)


def assert_refused(text, *said):
    with pytest.raises(SignatureError) as caught:
        ModelSignature.from_json(text, source="model.onnx")
    message = str(caught.value)
    assert message.startswith("model.onnx: ")
    assert "export it again" in message
    assert "\n" not in message
    for words in said:
        assert words in message


@pytest.mark.parametrize("version", [0, 3, "1", [1], True])
def test_another_version_is_refused_with_both_versions(version):
    assert_refused(changed(version=version), f"version {version!r}", "reads 1 and 2", "the release that created it")


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "[]", "null", "3", '"text"', "{}", '{"name": "x"}', '{"version": 1}', "\n\n{"]
)
def test_malformed_json_is_refused(text):
    assert_refused(text)


def test_what_is_not_readable_is_shown():
    assert_refused("<html>gone</html>", "<html>gone")


@pytest.mark.parametrize("field", ["name", "bands", "unit", "stretch", "window", "channels"])
def test_a_missing_field_is_named(field):
    assert_refused(changed(**{field: None}), field)


WRONG = {
    "an auto window that the model does not take": ({"auto_window": 1024}, "auto window 1024"),
    "an auto window that is no number": ({"auto_window": "wide"}, "wide"),
    "an unknown unit": ({"unit": "decibel"}, "decibel"),
    "a unit that is no text": ({"unit": 3}, "3"),
    "no band": ({"bands": []}, "0 bands"),
    "a stretch too few": ({"stretch": [["-25", "0"]]}, "2 bands with 1 stretches"),
    "a stretch of one bound": ({"stretch": [["-25"], ["-25", "0"]]}, ""),
    "a stretch upside down": ({"stretch": [["0", "-25"], ["-25", "0"]]}, "0 to -25"),
    "a bound that is neither": ({"stretch": [["low", "0"], ["-25", "0"]]}, "'low'"),
    "a percentile over 100": ({"stretch": [["p1", "p101"], ["-25", "0"]]}, "101"),
    "no stretch at all": ({"stretch": 7}, ""),
    "a window of nothing": ({"window": 0}, "window 0"),
    "a window that is no number": ({"window": "wide"}, "wide"),
    "a window without end": ({"window": float("inf")}, "inf"),
    "channels that are not the bands": ({"channels": 3}, "3 channels"),
    "no channel": ({"channels": 0, "bands": ["VV"], "stretch": [["-25", "0"]]}, "channels 0"),
}


@pytest.mark.parametrize(("fields", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_shown(fields, said):
    assert_refused(changed(**fields), said)


def test_bounds_that_are_numbers_are_read_or_refused_but_never_crash():
    text = changed(stretch=[[-25, 0], [-32.5, 0]])
    try:
        read = ModelSignature.from_json(text)
    except SignatureError:
        return
    assert read.stretch == (Stretch(Bound(-25), Bound(0)), Stretch(Bound(-32.5), Bound(0)))


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("-25", Bound(-25)),
        (" 0.5 ", Bound(0.5)),
        ("1e-3", Bound(0.001)),
        ("p99", Bound(99, True)),
        ("P2.5", Bound(2.5, True)),
        ("p0", Bound(0, True)),
        ("p100", Bound(100, True)),
    ],
)
def test_a_bound_is_a_value_or_a_percentile(text, bound):
    assert Bound.parse(text) == bound


@pytest.mark.parametrize("text", ["", " ", "p", "pp1", "low", "1,5", "nan", "inf", "-inf", "pnan", "p inf", "99%"])
def test_an_invalid_bound_is_shown_with_valid_ones(text):
    with pytest.raises(ValueError, match="number") as caught:
        Bound.parse(text)
    assert repr(text.strip()) in str(caught.value)
    assert "p99" in str(caught.value)


@pytest.mark.parametrize("text", ["p101", "p-1", "p100.1"])
def test_a_percentile_lies_within_0_and_100(text):
    with pytest.raises(ValueError, match=f"{text[1:]} is outside 0 to 100"):
        Bound.parse(text)


@pytest.mark.parametrize(("low", "high"), [("0", "0"), ("1", "0"), ("p99", "p1"), ("p5", "p5")])
def test_a_stretch_goes_upwards(low, high):
    with pytest.raises(ValueError, match=f"{low} to {high}"):
        Stretch.parse(low, high)


def test_a_value_and_a_percentile_may_be_mixed():
    assert Stretch.parse("0", "p99") == Stretch(Bound(0), Bound(99, True))


@pytest.mark.parametrize(
    ("low", "high", "unit", "invariant"),
    [
        ("p1", "p99", "db", True),
        ("p1", "p99", "amplitude", True),
        ("0", "p99", "amplitude", True),
        ("0", "p99", "power", True),
        ("0", "p99", "db", False),  # 0 dB is a power of 1
        ("-25", "0", "db", False),
        ("0", "0.5", "power", False),
        ("0.1", "p99", "power", False),
    ],
)
def test_a_stretch_that_moves_with_the_values_serves_uncalibrated_ones(low, high, unit, invariant):
    assert Stretch.parse(low, high).invariant_to_gain(unit) is invariant


def test_copies_of_one_band_are_distinguished_from_bands():
    assert ModelSignature(name="copies", channels=3).replicated
    assert not TWO_BANDS.replicated


def test_a_stretch_reads_as_a_user_writes_it():
    assert str(Stretch.parse("p1", "-3.5")) == "p1 to -3.5"
    assert math.isclose(Bound.parse(str(Bound(-25.5))).at, -25.5)
