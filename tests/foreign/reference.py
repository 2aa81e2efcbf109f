"""Translate a scene with a foreign model slowly, in numpy, from its record: no code of the package."""

from __future__ import annotations

import numpy as np


def starts(length, window, overlap):
    """First pixels of as few windows as the overlap allows, evenly spread, rounded down."""
    if length <= window:
        return [0]
    count = 1
    while count * (window - overlap) + overlap < length:
        count += 1
    return [k * (length - window) // (count - 1) for k in range(count)]


def profiles(first, window):
    """Weight of each window's pixels along an axis: a raised cosine over what it shares with each neighbour."""
    found = []
    for k, start in enumerate(first):
        weights = np.ones(window)
        for pixel in range(window):
            if k and start + pixel < first[k - 1] + window:
                shared = first[k - 1] + window - start
                weights[pixel] *= 0.5 - 0.5 * np.cos(np.pi * (pixel + 0.5) / shared)
            if k + 1 < len(first) and start + pixel >= first[k + 1]:
                shared = start + window - first[k + 1]
                into = start + pixel - first[k + 1]
                weights[pixel] *= 0.5 + 0.5 * np.cos(np.pi * (into + 0.5) / shared)
        found.append(weights)
    return found


def encoded(record, bands):
    """Scale bands (C, H, W), in the model's unit."""
    planes = []
    for scaling, band in zip(record["scaling"], bands.astype(np.float64), strict=True):
        if "stretch" in scaling:
            low, high = map(float, scaling["stretch"])
            first, last = scaling["to"]
            planes.append(first + (np.clip(band, low, high) - low) / (high - low) * (last - first))
        else:
            clipped = np.clip(band, *scaling["clip"]) if "clip" in scaling else band
            planes.append((clipped - scaling["mean"]) / scaling["std"])
    return np.stack(planes)


def drawn(noise, top, left):
    """Random numbers of a window: from the seed and its first pixel."""
    return np.random.default_rng([noise["seed"], top, left]).standard_normal(noise["shape"], np.float32)


def values(foreign, bands):
    """Return the output as values (range, or reflectance), float64 (K, H, W)."""
    record, (height, width), side = foreign.record, bands.shape[1:], foreign.window
    planes = encoded(record, bands)
    rows, cols = (starts(length, side, foreign.overlap) for length in (height, width))
    total, weight = 0, np.zeros((height, width))
    for top, down in zip(rows, profiles(rows, side), strict=True):
        for left, across in zip(cols, profiles(cols, side), strict=True):
            window = planes[:, top : top + side, left : left + side]
            if noise := record.get("noise"):
                window = np.concatenate((drawn(noise, top, left), window))
            image = foreign.network(window)
            if weight.any() == 0 and np.isscalar(total):
                total = np.zeros((len(image), height, width))
            share = np.outer(down, across)
            total[:, top : top + side, left : left + side] += share * image
            weight[top : top + side, left : left + side] += share
    raw = total / weight
    reflectance = record["output"].get("reflectance")
    return raw * reflectance["scale"] + reflectance["offset"] if reflectance else raw


def shown(foreign, found):
    """Return the bytes of the bands that are red, green and blue."""
    output = foreign.record["output"]
    low, high = output.get("shown") or output["range"]
    rgb = found[[output["bands"].index(name) for name in output["rgb"]]]
    return np.floor(np.clip((rgb - low) / (high - low), 0, 1) * 255 + 0.5)
