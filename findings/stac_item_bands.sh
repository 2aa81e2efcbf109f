#!/usr/bin/env bash
# What most would guess: the common metadata field `bands` of STAC 1.1 may stand among an Item's properties, as in the schema of the machine
#   learning model extension, which asks for it there.
# What happens: the Item schema of STAC 1.1.0 refuses `bands` in properties unless an asset has `bands` as well.
# Version: pystac 1.15.2, which carries the schemas of STAC 1.1.0; jsonschema 4.26.0. Date: 2026-11-28.
# Source: item.json of STAC 1.1.0, the if/then/else on assets with bands; its comment states the opposite of its "then".
# Why a user cares: an Item that describes a model by the band names it takes (mlm:input) is invalid until the same bands are repeated in
#   the asset. sar2opt-export --stac writes both (export/stac_mlm.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pystac==1.15.2 jsonschema==4.26.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from datetime import UTC, datetime

import pystac
from pystac.errors import STACValidationError

BANDS = [{"name": "VV"}]


def is_valid(asset_fields):
    item = pystac.Item("model", None, None, datetime(2026, 1, 1, tzinfo=UTC), {"bands": BANDS})
    item.add_asset("model", pystac.Asset("model.onnx", extra_fields=asset_fields))
    try:
        item.validate()
    except STACValidationError:
        return False
    return True


alone, repeated = is_valid({}), is_valid({"bands": BANDS})
print(f"pystac {pystac.__version__}: bands in properties: valid {alone}; in an asset too: valid {repeated}")
assert (alone, repeated) == (False, True)
PYTHON
echo "as described"
