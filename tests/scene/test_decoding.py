"""What a mosaic stores of a model's numbers: known answers for each type, range and reflectance."""

from __future__ import annotations

import numpy as np
import pytest

from sar2optical.errors import OptionError
from sar2optical.scene.decoding import RGB, decode, decoding_for
from sar2optical.signature import Output, Reflectance

UNIT = Output(values=(0.0, 1.0), shown=(0.0, 1.0))
BANDS = Output(
    bands=("B2", "B3", "B4", "B8"), values=Reflectance(scale=1e-4, offset=-0.1), rgb=("B4", "B3", "B2"),
    shown=(0.0, 0.4),
)  # fmt: skip


def column(*values):
    return np.array(values, np.float32)[:, None]


def test_the_output_of_version_1_is_decoded_as_before():
    assert decoding_for(Output()) == RGB
    assert RGB.is_rgb
    assert decode(column(-2, -1, 0, 1, 3)).ravel().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("output", "dtype", "numbers", "stored"),
    [
        (UNIT, "uint8", (-0.2, 0, 0.5, 1, 1.2), (0, 0, 128, 255, 255)),
        (UNIT, "uint16", (-0.2, 0, 0.5, 1, 1.2), (0, 0, 32768, 65535, 65535)),
        (UNIT, "float32", (-0.25, 0, 0.5, 1, 1.25), (-0.25, 0, 0.5, 1, 1.25)),
        (Output(values=(0.0, 255.0), shown=(0.0, 255.0)), "uint8", (0, 1, 99.4, 99.5, 255), (0, 1, 99, 100, 255)),
        (BANDS, "uint8", (0, 1000, 2000, 5000, 9000), (0, 0, 64, 255, 255)),
        (BANDS, "uint16", (0, 1000, 2000, 11000, 99999999), (0, 0, 1000, 10000, 65535)),
    ],
)
def test_numbers_are_stored_as_the_type_says(output, dtype, numbers, stored):
    found = decoding_for(output, dtype=dtype).decode(column(*numbers))
    assert found.dtype == dtype
    assert found.ravel().tolist() == list(stored)


def test_floats_are_reflectance():
    found = decoding_for(BANDS, dtype="float32").decode(column(0, 1000, 11000))
    np.testing.assert_allclose(found.ravel(), [-0.1, 0, 1], atol=1e-6)


def test_scale_and_offset_give_the_values_back():
    for dtype, step in (("uint8", 0.4 / 255), ("uint16", 1e-4), ("float32", 1e-6)):
        chosen = decoding_for(BANDS, ("all",), dtype)
        scale, offset = chosen.measures
        numbers = column(1000, 1500, 2500, 4900)
        stored = chosen.decode(numbers) * scale + offset
        np.testing.assert_allclose(stored, numbers * 1e-4 - 0.1, atol=step * 0.51)


def test_bands_are_chosen_in_the_order_that_is_asked_for():
    image = np.arange(4, dtype=np.float32)[:, None, None]
    for names, index in (((), [2, 1, 0]), (("all",), [0, 1, 2, 3]), (("B8", "B2"), [3, 0]), (("rgb",), [2, 1, 0])):
        assert decoding_for(BANDS, names).chosen(image).ravel().tolist() == index
    assert decoding_for(BANDS, ("all",)).chosen(image) is image
    assert decoding_for(Output()).chosen(image) is image


def test_a_band_may_be_several_colours_of_a_picture():
    grey = Output(bands=("coherence",), values=(0.0, 1.0), rgb=("coherence",) * 3, shown=(0.0, 1.0))
    assert decoding_for(grey).chosen(np.ones((1, 2, 2), np.float32)).shape == (3, 2, 2)
    assert decoding_for(grey, ("all",)).bands == ("coherence",)


def test_unknown_bands_and_types_are_refused():
    with pytest.raises(OptionError, match=r"output band B9 is not one .* some of B2,B3,B4,B8"):
        decoding_for(BANDS, ("B2", "B9"))
    with pytest.raises(OptionError, match="named twice"):
        decoding_for(BANDS, ("B2", "B2"))
    with pytest.raises(OptionError, match="give one of uint8, uint16, float32"):
        decoding_for(BANDS, dtype="int16")
