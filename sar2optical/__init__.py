"""Sentinel-1 radar to optical-looking RGB."""

from importlib.metadata import version as _version

__version__ = _version("sar2optical")
