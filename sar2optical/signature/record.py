"""JSON form of what version 2 of a signature adds; the schema is docs/signature.schema.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sar2optical.signature.scaling import Bound, Scaling, Standardize, Stretch
from sar2optical.signature.tensors import Graph, Noise, Output, Reflectance

__all__ = ["read_version_2", "refuse_newer_names", "refuse_null", "version_2"]

_FREE = "free"
"""Batch of a graph that takes any number of windows."""

_NORMAL = "normal"
"""The only distribution of noise."""

_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "signature": (
        {"version", "name", "bands", "unit", "scaling", "window", "channels", "batch", "input", "output"},
        {"windows", "auto_window", "pixel_size", "noise", "observed"},
    ),
    "stretch": ({"stretch", "to"}, set()),
    "mean and standard deviation": ({"mean", "std"}, {"clip"}),
    "input": ({"name", "layout", "type"}, set()),
    "output": ({"name", "layout", "type", "bands", "rgb"}, {"range", "reflectance", "shown"}),
    "reflectance": ({"scale", "offset"}, set()),
    "noise": ({"name", "shape", "type", "distribution"}, {"seed"}),
}
"""Names that each part of the record must have, and may have."""

_REMEDIES = {
    "unit": "give dn, amplitude, power, db or byte",
    "pixel_size": "give metres on the ground, or leave it out if nobody knows",
    "scaling": 'give [{"stretch": ["-25", "0"], "to": [-1, 1]}] or [{"mean": -12, "std": 5}], one for each band',
    "bands": 'give the polarisations, such as ["VV", "VH"]',
    "output.range": 'give [-1, 1], [0, 1] or [0, 255], or instead of it "reflectance"',
    "output.bands": 'give the names of the output bands, such as ["red", "green", "blue"] or ["B2", "B3"]',
    "output.rgb": "give the names of the bands that are red, green and blue",
    "window": "give the height and width of the windows that the model was trained on",
    "noise.distribution": "give normal, the only one that is known",
}
"""What to give instead of null, by name."""


def version_2(scaling: Sequence[Scaling], graph: Graph, output: Output) -> dict[str, Any]:
    """Return the part of the record that version 1 does not have."""
    noise = graph.noise
    return {
        "scaling": [_scaling(one) for one in scaling],
        "batch": _FREE if graph.batch is None else graph.batch,
        "input": {"name": graph.input or "", "layout": graph.input_layout, "type": graph.input_type},
        "output": {
            "name": graph.output or "",
            "layout": graph.output_layout,
            "type": graph.output_type,
            "bands": list(output.bands),
            **(
                {"reflectance": {"scale": output.values.scale, "offset": output.values.offset}}
                if isinstance(output.values, Reflectance)
                else {"range": list(output.values)}
            ),
            "rgb": list(output.rgb),
            "shown": list(output.shown),
        },
        **(
            {
                "noise": {
                    "name": noise.name,
                    "shape": list(noise.shape),
                    "type": noise.type,
                    "distribution": _NORMAL,
                    "seed": noise.seed,
                }
            }
            if noise
            else {}
        ),
    }


def _scaling(one: Scaling) -> dict[str, Any]:
    if isinstance(one, Stretch):
        return {"stretch": [str(one.low), str(one.high)], "to": list(one.to)}
    return {"mean": one.mean, "std": one.std, **({} if one.clip is None else {"clip": list(one.clip)})}


def read_version_2(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read what version 2 adds: the fields `stretch`, `graph` and `output` of a signature.

    Raises
    ------
    ValueError, TypeError, KeyError
        The record is malformed. The message names the value.
    """
    _check(record, "signature")
    for what in ("window", "channels", "auto_window"):
        if record.get(what) is not None:
            _whole(record[what], what)
    for side in record.get("windows", ()):
        _whole(side, "one of windows")
    _listed(record["bands"], "bands")
    given, made, noise = record["input"], record["output"], record.get("noise")
    _check(given, "input")
    batch = record["batch"]
    return {
        "stretch": tuple(_read_scaling(one) for one in record["scaling"]),
        "graph": Graph(
            input=str(given["name"]) or None,
            input_layout=given["layout"],
            input_type=given["type"],
            output=str(made["name"]) or None,
            output_layout=made["layout"],
            output_type=made["type"],
            batch=None if batch == _FREE else _whole(batch, "batch"),
            noise=None if noise is None else _read_noise(noise),
        ),
        "output": _read_output(made),
    }


def _read_scaling(record: Mapping[str, Any]) -> Scaling:
    if "stretch" in record:
        _check(record, "stretch")
        low, high = record["stretch"]
        return Stretch(Bound.parse(str(low)), Bound.parse(str(high)), _pair(record["to"]))
    _check(record, "mean and standard deviation")
    clip = _pair(record["clip"]) if "clip" in record else None
    return Standardize(mean=float(record["mean"]), std=float(record["std"]), clip=clip)


def _read_output(record: Mapping[str, Any]) -> Output:
    _check(record, "output")
    if ("range" in record) == ("reflectance" in record):
        raise ValueError("output: give either range or reflectance")
    values: tuple[float, float] | Reflectance
    if "range" in record:
        values = shown = _pair(record["range"])
    else:
        _check(record["reflectance"], "reflectance")
        values = Reflectance(**{name: float(value) for name, value in record["reflectance"].items()})
        if "shown" not in record:
            raise ValueError(
                "output: shown is missing: give the reflectances that become 0 and 255, such as [0, 0.3]"
            )
    if "shown" in record:
        shown = _pair(record["shown"])
    for key in ("bands", "rgb"):
        _listed(record[key], f"output.{key}")
    names, rgb = (tuple(str(band) for band in record[key]) for key in ("bands", "rgb"))
    return Output(bands=names, values=values, rgb=rgb, shown=shown)


def _read_noise(record: Mapping[str, Any]) -> Noise:
    _check(record, "noise")
    if record["distribution"] != _NORMAL:
        raise ValueError(f"noise: distribution {record['distribution']!r} is not supported: give {_NORMAL}")
    shape = tuple(_whole(length, "a length of noise.shape") for length in record["shape"])
    seed = _whole(record.get("seed", 0), "noise.seed")
    return Noise(name=str(record["name"]), shape=shape, type=record["type"], seed=seed)


def _check(record: Any, part: str) -> None:
    """Refuse a part of the record that lacks a name, or has one that means nothing."""
    if not isinstance(record, Mapping):
        raise TypeError(f"{part} is {record!r}: give a JSON object")
    required, optional = _KEYS[part]
    if missing := sorted(required - record.keys()):
        raise ValueError(f"{part}: {', '.join(missing)} missing")
    if unknown := sorted(record.keys() - required - optional):
        raise ValueError(f"{part}: {', '.join(unknown)} unknown: give {', '.join(sorted(required | optional))}")


def _pair(value: Any) -> tuple[float, float]:
    if isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{value!r} is not a pair of numbers")
    return float(value[0]), float(value[1])


def _listed(value: Any, what: str) -> None:
    if not isinstance(value, list):
        raise TypeError(f"{what} is {value!r}: give a list of names")


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is {value!r}: give a whole number")
    return value


def refuse_newer_names(record: Mapping[str, Any]) -> None:
    """Refuse names of version 2 in a record of version 1, where they would mean nothing.

    Raises
    ------
    ValueError
        The message names the first one.
    """
    if newer := sorted({"scaling", "batch", "input", "output", "noise"} & record.keys()):
        raise ValueError(f"version 1 has no {newer[0]}: give version 2 as docs/signature.md describes")


def refuse_null(record: Mapping[str, Any]) -> None:
    """Refuse a record with a value of null, which `sar2opt-export --describe` writes where it cannot know.

    Raises
    ------
    ValueError
        The message names the first one, and what to give.
    """
    for name in _nulls({key: value for key, value in record.items() if key != "observed"}):
        remedy = _REMEDIES.get(name.partition("[")[0], "give its value")
        raise ValueError(f"{name} is null, so unknown: {remedy}")


def _nulls(value: Any, name: str = "") -> Iterator[str]:
    if value is None:
        yield name
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nulls(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _nulls(inner, f"{name}[{k}]")
