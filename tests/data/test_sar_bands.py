"""Bands of SAR chips: selection by index, and polarisations of unnamed bands."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from sar2optical.data.harmonise import harmonise
from sar2optical.data.pairs import Pair, Reading, find_pairs, read_pair, read_sar
from sar2optical.data.sar_bands import name_bands, parse_band, polarisation_of
from sar2optical.errors import DataError, OptionError
from tests.conftest import UTM, speckle
from tests.data.test_pairs import DB, decibels


def dual(make_raster, name="sar.tif", *, names=(), swapped=False, more=0):
    """Two bands, VV 6 dB above VH, and `more` of VH's."""
    bands = np.stack([decibels() + 3, decibels() - 3, *[decibels() - 4] * more])
    return make_raster(bands[[1, 0]] if swapped else bands, name, descriptions=names, **UTM)


def test_bands_are_given_by_index_polarisation_or_both():
    assert parse_band("2") == ("2", None)
    assert parse_band("VH") == ("VH", None)
    assert parse_band("VV|VH") == ("VV|VH", None)
    assert parse_band("2=vh") == ("2", "VH")
    assert [polarisation_of(text) for text in ("2=VH", "2", "VV")] == ["VH", "2", "VV"]
    for text in ("", "2=", "VH=2", "=VH"):
        with pytest.raises(OptionError, match="give an index"):
            parse_band(text)


def test_an_index_gets_the_files_name(make_raster):
    path = dual(make_raster, names=("VH", "VV"), swapped=True)
    assert name_bands(("2",), path) == (("VV",), ("2=VV",))
    assert name_bands(("1", "2"), path) == (("VH", "VV"), ("1=VH", "2=VV"))
    assert name_bands(("VV",), path) == (("VV",), ())


def test_two_bands_without_names_have_sentinel_1s_order_and_this_is_logged(make_raster, caplog):
    caplog.set_level(logging.INFO)
    path = dual(make_raster)
    assert name_bands(("2",), path) == (("VH",), ("2=VH",))
    assert name_bands(("1",), path) == (("VV",), ("1=VV",))
    assert "band 2 is taken as VH" in caplog.messages[0]
    assert "--band 2=NAME" in caplog.messages[0]
    caplog.clear()
    assert name_bands(("2=HV",), path) == (("HV",), ("2=HV",))
    assert not caplog.messages


@pytest.mark.parametrize("how", [{"swapped": True}, {"more": 1}, {"names": ("", "VV")}], ids=str)
def test_a_band_without_a_name_is_refused_until_one_is_given(make_raster, how):
    path = dual(make_raster, **how)
    with pytest.raises(DataError, match="unknown polarisation of band 1: give --band 1=VV or --band 1=VH"):
        name_bands(("1",), path)
    assert name_bands(("1=VH",), path) == (("VH",), ("1=VH",))


def test_a_single_band_without_a_name_is_refused_by_index_only(make_raster):
    path = make_raster(speckle((64, 64)), "one.png")
    with pytest.raises(DataError, match="unknown polarisation"):
        name_bands(("1",), path)
    with pytest.raises(DataError, match="no band 2, the file has 1"):
        name_bands(("2",), path)
    assert name_bands(("VH",), path) == (("VH",), ())


def test_a_chip_that_names_the_band_otherwise_is_refused(make_raster):
    path = dual(make_raster, names=("VV", "VH"))
    with pytest.raises(DataError, match=r"band 2 is named VH, not VV: give --band 2=VH"):
        read_sar(path, Reading(signature=DB, bands=("2=VV",)))
    either = read_sar(path, Reading(signature=DB, bands=("2=VV|VH",)))
    np.testing.assert_array_equal(either, read_sar(path, Reading(signature=DB, bands=("2",))))


def test_the_remedy_for_bands_without_names_works(make_raster):
    path = dual(make_raster)
    with pytest.raises(
        DataError,
        match=r"2 bands without names, but VV is needed: .*--band, such as --band 1; Sentinel-1's order is VV, VH",
    ):
        read_sar(path, Reading(signature=DB))
    first = read_sar(path, Reading(signature=DB, bands=("1",)))
    np.testing.assert_array_equal(
        first, read_sar(dual(make_raster, "named.tif", names=("VV", "VH")), Reading(signature=DB))
    )


@pytest.mark.parametrize("names", [(), ("VV", "VH")])
def test_harmonised_pairs_have_the_given_band(make_raster, tmp_path, names):
    """The second band is the first one inverted, so that their percentiles differ."""
    sar = np.stack([decibels() + 3, decibels()[::-1] - 3])
    pair = Pair(
        make_raster(sar, "sar.tif", descriptions=names, **UTM),
        make_raster(np.stack([speckle((256, 256))] * 3), "optical.png"),
    )
    for band in ("2", "2=VH", *(("VH",) if names else ())):
        harmonise([pair], tmp_path / band, band=band)
        grey = read_pair(find_pairs(tmp_path / band)[0]).sar[0].astype(int)
        assert grey[0].mean() > grey[-1].mean() + 200
