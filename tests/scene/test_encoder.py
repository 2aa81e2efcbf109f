"""Conversion of units, stretches and bytes, against values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sar2optical.errors import UnitsMismatch
from sar2optical.scene.decoding import decode
from sar2optical.scene.encoder import (
    AS_IT_IS,
    Encoding,
    choose_stretch,
    convert,
    encode_bands,
    encodings_for,
    resolve,
    to_input,
)
from sar2optical.signature import Bound, ModelSignature, Standardize, Stretch

LINEAR = ("amplitude", "power", "db")
PERCENTILES = Stretch.parse("p1", "p99")
FIXED = Stretch.parse("-25", "0")


def floats(*values):
    return np.array(values, np.float32)


def model(unit="db", *stretches, **fields):
    stretches = stretches or (PERCENTILES,)
    bands = ("VV", "VH")[: len(stretches)]
    return ModelSignature(name="m", bands=bands, unit=unit, stretch=stretches, channels=len(bands), **fields)


# units


@pytest.mark.parametrize(
    ("power", "amplitude", "db"),
    [(1, 1, 0), (0.1, 0.31622777, -10), (0.01, 0.1, -20), (100, 10, 20), (0.5, 0.70710678, -3.0103)],
)
def test_one_backscatter_in_three_units(power, amplitude, db):
    values = {"power": power, "amplitude": amplitude, "db": db}
    for source in LINEAR:
        for target in LINEAR:
            found = convert(floats(values[source]), source, target)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, values[target], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("source", [*LINEAR, "dn"])
@pytest.mark.parametrize("target", [*LINEAR, "dn"])
def test_conversion_there_and_back_is_the_identity(source, target):
    values = np.linspace(-40, 10, 201, dtype=np.float32) if source == "db" else np.geomspace(1e-4, 50, 201)
    values = values.astype(np.float32).reshape(3, 67)
    np.testing.assert_allclose(convert(convert(values, source, target), target, source), values, rtol=1e-5, atol=1e-5)


def test_dn_counts_as_amplitude():
    np.testing.assert_allclose(convert(floats(10, 1000), "dn", "db"), [20, 60], rtol=1e-6)
    np.testing.assert_array_equal(convert(floats(3), "dn", "power"), floats(9))


@pytest.mark.parametrize("source", ["power", "amplitude", "dn"])
def test_a_power_of_0_is_minus_infinity_in_db_without_a_warning(source):
    np.testing.assert_array_equal(convert(floats(0, -0.25), source, "db"), floats(-np.inf, -np.inf))


def test_minus_infinity_in_db_is_a_power_of_0():
    assert convert(floats(-np.inf), "db", "power") == 0
    assert convert(floats(-np.inf), "db", "amplitude") == 0


def test_negative_power_counts_as_0():
    np.testing.assert_array_equal(convert(floats(-0.5, 4), "power", "amplitude"), floats(0, 2))
    np.testing.assert_array_equal(convert(floats(-2, 3), "amplitude", "power"), floats(0, 9))


@pytest.mark.parametrize("unit", [*LINEAR, "dn"])
def test_bytes_convert_to_nothing_and_nothing_to_bytes(unit):
    for pair in (("byte", unit), (unit, "byte")):
        with pytest.raises(UnitsMismatch, match=f"{pair[0]}.*{pair[1]}.*--stretch"):
            convert(floats(1), *pair)
    assert convert(floats(7), "byte", "byte") == 7


def test_conversion_leaves_its_input_as_it_was():
    for source in LINEAR:
        values = floats(-1, 0, 0.5)
        for target in LINEAR:
            convert(values, source, target)
            np.testing.assert_array_equal(values, floats(-1, 0, 0.5))


# encoding and decoding


def encode(encoding, values, valid=None):
    values = np.atleast_2d(floats(*values))
    return encoding.encode(values, np.ones(values.shape, bool) if valid is None else np.atleast_2d(valid))[0]


def test_the_ends_of_a_stretch_become_minus_one_and_one_and_what_lies_beyond_is_clipped():
    encoding = Encoding("db", "db", -25, 0)
    expected = [-1, -1, -0.5, 0, 1, 1]
    np.testing.assert_allclose(encode(encoding, [-99, -25, -18.75, -12.5, 0, 30]), expected, atol=1e-6)


def test_values_are_converted_before_they_are_stretched():
    encoding = Encoding("power", "db", -20, 0)
    np.testing.assert_allclose(encode(encoding, [1, 0.1, 0.01]), [1, 0, -1], atol=1e-6)


def test_infinities_are_clipped():
    np.testing.assert_array_equal(encode(Encoding("db", "db", -25, 0), [-np.inf, np.inf]), [-1, 1])
    np.testing.assert_array_equal(encode(Encoding("power", "db", -25, 0), [0, -1, np.inf]), [-1, -1, 1])


def test_invalid_pixels_become_0_whatever_their_value():
    values = [np.nan, -32768, np.inf, 0.5, 0.2]
    valid = [False, False, False, False, True]
    for source in LINEAR:
        encoded = encode(Encoding(source, "db", -20, 0), values, valid)
        assert encoded[:4].tolist() == [0] * 4
        assert encoded[4] != 0


def test_encoding_leaves_the_scenes_values_as_they_were():
    values = np.array([[0.5, 3, np.nan]], np.float32)
    for encoding in (Encoding("amplitude", "amplitude", 0, 1), AS_IT_IS, Encoding("power", "db", -20, 0)):
        encoding.encode(values, np.array([[True, True, False]]))
        np.testing.assert_array_equal(values, np.array([[0.5, 3, np.nan]], np.float32))


def test_all_256_bytes_come_back_as_they_were():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    encoded = AS_IT_IS.encode(grey.astype(np.float32), np.ones(grey.shape, bool))
    assert encoded.dtype == np.float32
    assert (encoded.min(), encoded.max()) == (-1, 1)
    np.testing.assert_allclose(encoded, (grey / 255 - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(decode(encoded), grey)


def test_grey_levels_are_clipped_and_rounded():
    wanted = {-9: 0, -1: 0, 0.002: 128, 0.25: 159, -0.6: 51, 0.996: 254, 0.9961: 255, 1: 255, 9: 255}
    found = decode(floats(*wanted))
    assert found.dtype == np.uint8
    assert found.tolist() == list(wanted.values())


def test_decoding_leaves_the_image_as_it_was():
    image = floats(-2, 0.3)
    decode(image)
    np.testing.assert_array_equal(image, floats(-2, 0.3))


def test_an_encoding_is_described_in_words():
    assert str(AS_IT_IS) == "bytes as they are"
    assert str(Encoding("power", "db", -25, -0.5)) == "power as db, -25 to -0.5"


# stretches


def test_percentiles_are_of_the_sample():
    sample = np.random.default_rng(0).permutation(np.arange(101, dtype=np.float32))
    assert resolve(Stretch.parse("p1", "p99"), sample) == (1, 99)
    assert resolve(Stretch.parse("p0", "p100"), sample) == (0, 100)
    assert resolve(Stretch.parse("p2.5", "p50"), sample) == (2.5, 50)


def test_values_are_values_whatever_the_sample():
    assert resolve(FIXED, floats(3, 4)) == (-25, 0)
    assert resolve(Stretch.parse("0", "p50"), floats(1, 2, 9)) == (0, 2)


def test_percentiles_ignore_pixels_without_power():
    sample = np.concatenate([np.full(50, -np.inf), np.arange(101)]).astype(np.float32)
    assert resolve(PERCENTILES, sample) == (1, 99)


@pytest.mark.parametrize("flat", [-20.0, 0.0, 1e-4, 4000.0, 65535.0])
def test_a_flat_scene_becomes_minus_one_and_what_is_brighter_one(flat):
    low, high = resolve(PERCENTILES, np.full(10, flat, np.float32))
    assert low < high
    brighter = flat + max(abs(flat), 1) * 1e-3
    assert encode(Encoding("db", "db", low, high), [flat, brighter]).tolist() == [-1, 1]


@pytest.mark.parametrize("sample", [floats(), floats(-np.inf, -np.inf)])
def test_a_scene_without_a_value_still_has_a_range(sample):
    low, high = resolve(PERCENTILES, sample)
    assert np.isfinite([low, high]).all()
    assert low < high


def test_percentiles_in_db_are_invariant_to_a_calibration_factor():
    dn = np.random.default_rng(1).gamma(4, 80, (16, 16)).astype(np.float32)
    images = []
    for values in (dn, dn / 437):
        low, high = resolve(PERCENTILES, convert(values.ravel(), "dn", "db"))
        images.append(Encoding("dn", "db", low, high).encode(values, np.ones(dn.shape, bool)))
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    assert images[0].std() > 0.2


@pytest.mark.parametrize("source", LINEAR)
def test_calibrated_values_take_the_models_own_stretch_in_the_models_unit(source):
    assert choose_stretch(source, model("db", FIXED), None) == ("db", (FIXED,))
    vh = Stretch.parse("-32.5", "0")
    assert choose_stretch(source, model("db", FIXED, vh), None) == ("db", (FIXED, vh))


@pytest.mark.parametrize(("unit", "stretch"), [("db", "-25 0"), ("amplitude", "0 0.5"), ("power", "0.01 p99")])
def test_uncalibrated_dn_are_refused_by_a_fixed_range(unit, stretch):
    with pytest.raises(UnitsMismatch, match=r"uncalibrated DN.*calibrate the scene, or give --stretch"):
        choose_stretch("dn", model(unit, Stretch.parse(*stretch.split())), None)


def test_dn_are_refused_when_only_one_of_two_bands_has_a_fixed_range():
    with pytest.raises(UnitsMismatch, match="-25 to 0"):
        choose_stretch("dn", model("db", PERCENTILES, FIXED), None)


@pytest.mark.parametrize(("unit", "stretch"), [("db", "p1 p99"), ("amplitude", "0 p99"), ("power", "p0 p99")])
def test_uncalibrated_dn_pass_where_the_stretch_moves_with_them(unit, stretch):
    moving = Stretch.parse(*stretch.split())
    assert choose_stretch("dn", model(unit, moving), None) == (unit, (moving,))


def test_dn_pass_into_a_model_of_dn():
    fixed = Stretch.parse("0", "800")
    assert choose_stretch("dn", model("dn", fixed), None) == ("dn", (fixed,))


@pytest.mark.parametrize("source", LINEAR)
def test_calibrated_values_are_refused_by_a_fixed_range_of_dn(source):
    with pytest.raises(UnitsMismatch, match=source):
        choose_stretch(source, model("dn", Stretch.parse("0", "800")), None)


def test_bytes_are_taken_as_already_scaled():
    whole = Stretch.parse("0", "255")
    for signature in (model("byte", whole), model("db", FIXED), model("amplitude", PERCENTILES)):
        assert choose_stretch("byte", signature, None) == ("byte", (whole,))


@pytest.mark.parametrize("source", [*LINEAR, "dn"])
def test_a_model_of_bytes_takes_no_other_values_unasked(source):
    with pytest.raises(UnitsMismatch, match=f"values are {source}.*--stretch"):
        choose_stretch(source, model("byte", Stretch.parse("0", "255")), None)


@pytest.mark.parametrize(
    ("source", "unit", "expected"),
    [("db", "db", "db"), ("power", "db", "db"), ("dn", "db", "db"), ("byte", "db", "byte"), ("db", "byte", "db")],
)
def test_a_users_stretch_wins_over_the_models(source, unit, expected):
    mine = Stretch.parse("-18", "p97")
    theirs = FIXED if unit == "db" else Stretch.parse("0", "255")
    assert choose_stretch(source, model(unit, theirs, theirs), mine) == (expected, (mine, mine))


def test_a_mixed_stretch_that_the_scene_inverts_is_refused():
    with pytest.raises(ValueError, match="p1"):
        resolve(Stretch(Bound(1, True), Bound(-40)), floats(-20, -10, -5))


# from samples to model input


def test_each_band_gets_the_percentiles_of_its_own_samples():
    samples = np.arange(101, dtype=np.float32), np.arange(101, dtype=np.float32) * 2
    found = encodings_for("db", samples, model("db", PERCENTILES, PERCENTILES))
    assert found == [Encoding("db", "db", 1, 99), Encoding("db", "db", 2, 198)]


def test_percentiles_are_taken_after_conversion_to_the_models_unit():
    (found,) = encodings_for("dn", [floats(1, 10, 100)], model("db", PERCENTILES), Stretch.parse("p0", "p100"))
    assert (found.source, found.target) == ("dn", "db")
    np.testing.assert_allclose((found.low, found.high), (0, 40), atol=1e-5)


@pytest.mark.parametrize(("unit", "sample"), [(None, floats(1)), ("dn", floats())])
def test_a_scene_without_a_valid_pixel_needs_no_stretch(unit, sample):
    assert encodings_for(unit, [sample], model("db", FIXED)) == [AS_IT_IS]


def test_bands_are_encoded_each_by_its_own():
    values = np.stack([floats(-25, 0)[None], floats(-25, 0)[None]])
    encodings = [Encoding("db", "db", -25, 0), Encoding("db", "db", -50, 0)]
    found = encode_bands(encodings, values, np.array([[True, True]]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[[-1, 1]], [[0, 1]]])


def test_a_small_scene_is_padded_at_the_far_edges_and_copied_to_all_channels():
    sar, valid = to_input(floats(0.5, -0.5)[None, None], np.array([[True, False]]), shape=(2, 3), channels=3)
    np.testing.assert_array_equal(sar, np.array([[[0.5, -0.5, 0], [0, 0, 0]]] * 3, np.float32))
    np.testing.assert_array_equal(valid, [[True, False, False], [False, False, False]])


def test_input_of_the_right_size_and_channels_is_not_copied():
    sar, valid = np.zeros((2, 3, 4), np.float32), np.ones((3, 4), bool)
    same, mask = to_input(sar, valid, shape=(3, 4), channels=2)
    assert same is sar
    assert mask is valid


def test_a_mean_and_a_standard_deviation_are_taken_off():
    bands = (Standardize(mean=-12, std=4), Standardize(mean=-12, std=4, clip=(-20, 0)))
    signature = ModelSignature(name="m", bands=("VV", "VH"), unit="db", stretch=bands, channels=2)
    free, clipped = encodings_for("db", [floats(-10), floats(-10)], signature)
    np.testing.assert_array_equal(encode(free, [-12, -8, -40, 28, -np.inf]), [0, 1, -7, 10, -10])
    np.testing.assert_array_equal(encode(clipped, [-12, -8, -40, 28, -np.inf]), [0, 1, -2, 3, -2])
    power = encodings_for("power", [floats(0.1), floats(0.1)], signature)[0]
    np.testing.assert_allclose(encode(power, [0.1, 0, 1]), [0.5, -10, 3], atol=1e-6)
    assert str(free) == "db as db, mean -12, deviation 4"


@pytest.mark.parametrize(("to", "wanted"), [((0.0, 1.0), [0, 0, 0.5, 1]), ((0.0, 255.0), [0, 0, 127.5, 255])])
def test_a_stretch_goes_to_the_range_of_the_model(to, wanted):
    signature = ModelSignature(name="m", unit="db", stretch=(Stretch(Bound(-25), Bound(0), to),))
    (own,) = encodings_for("db", [floats(-10)], signature)
    np.testing.assert_allclose(encode(own, [-99, -25, -12.5, 7]), wanted)
    (users,) = encodings_for("db", [floats(-10)], signature, Stretch.parse("-20", "0"))
    np.testing.assert_allclose(encode(users, [-99, -20, -10, 7]), wanted)
    (of_bytes,) = encodings_for("byte", [floats(9)], signature)
    np.testing.assert_allclose(encode(of_bytes, [0, 0, 127.5, 255]), wanted)


def test_bytes_are_standardized_only_where_the_model_has_a_mean_of_bytes():
    own = Standardize(mean=100, std=50)
    signature = ModelSignature(name="m", unit="byte", stretch=(own,))
    np.testing.assert_array_equal(encode(encodings_for("byte", [floats(9)], signature)[0], [100, 200]), [0, 2])
    with pytest.raises(UnitsMismatch, match="mean 100, standard deviation 50, which stretch 0 to 255 cannot replace"):
        encodings_for("byte", [floats(9)], replace(signature, unit="db"))
    with pytest.raises(UnitsMismatch, match="already scaled to 8 bits"):
        encodings_for("db", [floats(9)], signature)
