"""Log requests that failed on a server and that GDAL repeats."""

from __future__ import annotations

import logging
import re

from sar2optical._utils.addresses import redacted

__all__ = ["RetryLog"]

_log = logging.getLogger(__name__)

_RETRYING = re.compile(
    r"HTTP error code: (?P<code>\d+) - (?P<address>\S+?)\. Retrying again in (?P<seconds>[\d.]+) sec"
)
"""Warning of GDAL 3.10, which rasterio passes to its logger."""


class RetryLog(logging.Handler):
    """Handler for the logger `rasterio._env` that reports repeated requests, without the queries of addresses."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one line if the record is GDAL's warning of a retry."""
        if found := _RETRYING.search(record.getMessage()):
            _log.warning(
                "%s: the server answered %s; retrying in %s s",
                *(redacted(found["address"]), found["code"], found["seconds"]),
            )
