"""Exported files described as STAC Items of the machine learning model extension."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pystac
import pytest
from pystac.extensions.mlm import MLMExtension

from export.build import ExportOptions, export
from export.cli import main as export_main
from export.stac_mlm import describe
from tests.batch.validation import errors_of
from tests.cli.test_cli import here


def test_an_export_describes_its_file(tmp_path, checkpoint):
    out, card = tmp_path / "files" / "generator.onnx", tmp_path / "model.json"
    out.parent.mkdir()
    done = here(export_main, checkpoint, out, "--windows", "256,512", "--stac", card, "-q")
    assert done.returncode == 0, done.stderr
    record = json.loads(card.read_text())
    assert errors_of(record) == []
    item = pystac.Item.from_dict(record)
    assert (item.properties["mlm:name"], MLMExtension.ext(item).framework) == ("tiny", "ONNX")
    (taken,), (given,) = item.properties["mlm:input"], item.properties["mlm:output"]
    assert (taken["input"]["shape"], given["result"]["shape"]) == ([-1, 1, -1, -1], [-1, 3, -1, -1])
    assert taken["bands"] == ["VH"]
    asset = item.assets["model"]
    assert asset.href == "files/generator.onnx"
    assert asset.extra_fields["file:size"] == out.stat().st_size
    assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(out.read_bytes()).hexdigest()
    again = here(export_main, checkpoint, tmp_path / "b.onnx", "--stac", card, "-q")
    assert again.returncode == 1
    assert "model.json: exists" in again.stderr
    assert not (tmp_path / "b.onnx").exists()


def test_scaling_and_decoding_are_those_of_the_package(tmp_path, checkpoint):
    record = describe(tmp_path / "model.json", export(checkpoint, tmp_path / "a.onnx", ExportOptions(windows=())))
    (taken,), (given,) = record["properties"]["mlm:input"], record["properties"]["mlm:output"]
    assert taken["input"]["shape"] == [-1, 1, 256, 256]
    scale = eval(f"lambda x, p99: {taken['value_scaling'][0]['expression']}", {"np": np})
    np.testing.assert_allclose(scale(np.array([-5.0, 0, 50, 100, 200]), 100.0), [-1, -1, 0, 1, 1])
    decode = eval(f"lambda x: {given['post_processing_function']['expression']}", {"np": np})
    assert decode(np.array([-1.2, -1, 0, 1])).tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("field", ["mlm:name", "mlm:input", "mlm:architecture"])
def test_the_validation_finds_a_missing_field(tmp_path, checkpoint, field):
    record = describe(tmp_path / "model.json", export(checkpoint, tmp_path / "a.onnx", ExportOptions(windows=())))
    del record["properties"][field]
    assert errors_of(record)
