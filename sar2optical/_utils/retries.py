"""Words on requests that a server failed and that GDAL sends again."""

from __future__ import annotations

import logging
import re

from sar2optical._utils.addresses import redacted

_log = logging.getLogger(__name__)

_RETRYING = re.compile(
    r"HTTP error code: (?P<code>\d+) - (?P<address>\S+?)\. Retrying again in (?P<seconds>[\d.]+) sec"
)
"""What GDAL 3.10 warns of, and rasterio passes on to its logger."""


class RetryLog(logging.Handler):
    """Tells of requests that failed and are sent again; for the logger `rasterio._env`. Queries are left out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line of ours where GDAL speaks of a retry."""
        if found := _RETRYING.search(record.getMessage()):
            _log.warning(
                "%s: the server answered %s; asking again in %s s",
                *(redacted(found["address"]), found["code"], found["seconds"]),
            )
