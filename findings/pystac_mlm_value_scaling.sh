#!/usr/bin/env bash
# What most would guess: pystac's class for the input of a machine learning model takes what the extension describes: a list of scalings,
#   one for each band.
# What happens: a list ends in an AttributeError; the class takes one scaling and writes it as an object, where the extension has an array.
# Version: pystac 1.15.2 (pystac-ext-mlm 1.4.1, schema mlm v1.4.0). Date: 2026-11-28.
# Source: pystac/extensions/mlm.py, ModelInput.value_scaling; stac-extensions/mlm, README, "Value Scaling Object" and the schema of v1.4.0.
# Why a user cares: a model of VV and VH with a stretch for each cannot be described by the class alone, and one with a single scaling gives
#   an Item that the extension's schema does not accept. sar2opt-export --stac sets the list itself (export/stac_mlm.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pystac==1.15.2
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import pystac
from pystac.extensions import mlm

structure = mlm.InputStructure.create([-1, 2, 256, 256], ["batch", "bands", "height", "width"], "float32")
kind = mlm.ValueScalingType.MIN_MAX
scalings = [mlm.ValueScaling.create(kind, minimum=low, maximum=0) for low in (-25, -32)]
fields = {"name": "sar", "bands": ["VV", "VH"], "input": structure}
try:
    mlm.ModelInput.create(**fields, value_scaling=scalings)
    raise SystemExit("a list is taken")
except AttributeError as error:
    print(f"pystac {pystac.__version__}, two scalings: AttributeError: {error}")
written = mlm.ModelInput.create(**fields, value_scaling=scalings[0]).to_dict()["value_scaling"]
print(f"one scaling is written as {written}")
assert isinstance(written, dict)
PYTHON
echo "as described"
