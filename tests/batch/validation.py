"""Validate STAC objects against the published schemas, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

SCHEMAS = Path(__file__).parent / "schemas"
CORE = Path(pystac.__file__).parent / "validation" / "jsonschemas"
STAC = "https://schemas.stacspec.org/v1.1.0"
EXTENSIONS = "https://stac-extensions.github.io"
UNUSED = ("https://proj.org/schemas/v0.7/projjson.schema.json", f"{EXTENSIONS}/classification/v1.1.0/schema.json")
"""Schemas of fields that are not written; whatever uses them fails."""


def errors_of(record: dict[str, Any]) -> list[str]:
    """Return what is wrong with an Item or a Collection, by its core schema and those of its extensions."""
    kind = {"Feature": "item", "Collection": "collection"}[record["type"]]
    names = [f"{STAC}/{kind}-spec/json-schema/{kind}.json", *record.get("stac_extensions", [])]
    found = []
    for name in names:
        schema = _schema(name)
        validator = validator_for(schema)(schema, registry=Registry(retrieve=_retrieve))
        found += [f"{name}: {error.json_path}: {error.message}" for error in validator.iter_errors(record)]
    return found


def _retrieve(uri: str) -> Resource:
    return Resource.from_contents(_schema(uri), default_specification=DRAFT7)


def _schema(uri: str) -> Any:
    if uri in UNUSED:
        return False
    name = Path(uri)
    if uri.startswith(STAC):
        path = next(CORE.rglob(f"stac-spec/v1.1.0/{name.name}"))
    elif uri.startswith("https://geojson.org/schema/"):
        path = CORE / "geojson" / name.name
    else:
        path = SCHEMAS / f"{name.parent.parent.name}_{name.parent.name}.json"
    return json.loads(path.read_text())
