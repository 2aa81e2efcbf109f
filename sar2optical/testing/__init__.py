"""Simulated scenes for the demo, tests and benches."""

from sar2optical.testing.simulate import SimulatedScene, write_scene

__all__ = ["SimulatedScene", "write_scene"]
