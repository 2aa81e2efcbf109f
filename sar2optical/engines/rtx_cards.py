"""GPUs that TensorRT for RTX names, and the precisions that each of them has; needs no library."""

from __future__ import annotations

from collections.abc import Iterable

from sar2optical.errors import DeviceUnavailable, OptionError

__all__ = ["CARDS", "FAMILIES", "refuse_card", "runs_on", "targets_for", "targets_named"]

CARDS: dict[tuple[int, int], str] = {
    (7, 5): "sm75",
    (8, 0): "sm80",
    (8, 6): "sm86",
    (8, 9): "sm89",
    (12, 0): "sm120",
    (12, 1): "sm121",
}
"""Targets by the compute capability of the cards that run their plans, after `tensorrt_rtx.ComputeCapability`. Hopper
(9.0) and data-centre Blackwell (10.0, 10.3) have none: on an H200, version 1.7.1 refused plans for each target, for
CURRENT and without a target ("TensorRT-RTX does not support this compute capability")."""

FAMILIES = {
    "turing": ("sm75",),
    "ampere": ("sm80", "sm86"),
    "ada": ("sm89",),
    "blackwell": ("sm120", "sm121"),
}
"""Targets by the names of NVIDIA's architectures."""

_LEAST = {"bf16": "sm80", "fp8": "sm89"}
"""First target of a precision; the builder refuses earlier ones."""

_ALL = tuple(CARDS.values())


def runs_on(compute_capability: tuple[int, int]) -> bool:
    """Return True if TensorRT for RTX runs on cards of this compute capability."""
    return compute_capability in CARDS


def refuse_card(name: str, compute_capability: tuple[int, int]) -> str:
    """Return the target of a card.

    Raises
    ------
    DeviceUnavailable
        If TensorRT for RTX does not run on it.
    """
    if not runs_on(compute_capability):
        major, minor = compute_capability
        raise DeviceUnavailable(
            f"TensorRT for RTX does not run on {name} (compute capability {major}.{minor}; it runs on "
            f"{', '.join(f'{a}.{b}' for a, b in CARDS)}): give --backend pytorch"
        )
    return CARDS[compute_capability]


def targets_for(precision: str) -> tuple[str, ...]:
    """Return all targets that a precision builds for."""
    return _ALL[_ALL.index(_LEAST.get(precision, _ALL[0])) :]


def targets_named(names: Iterable[str], precision: str) -> tuple[str, ...]:
    """Return the targets of names such as ampere or sm86, ascending; all that the precision allows for no name.

    Raises
    ------
    OptionError
        If a name is unknown, or the precision does not build for it.
    """
    known = {**FAMILIES, **{target: (target,) for target in _ALL}}
    names, found = tuple(names), set[str]()
    for name in names:
        if name not in known:
            raise OptionError(f"target is {name!r}: give {', '.join(known)}")
        found.update(known[name])
    allowed = targets_for(precision)
    if refused := [target for target in _ALL if target in found and target not in allowed]:
        raise OptionError(
            f"precision {precision} does not build for {', '.join(refused)}: give --target {','.join(allowed)}, or "
            "another --precision"
        )
    return tuple(target for target in _ALL if target in found) if names else allowed
