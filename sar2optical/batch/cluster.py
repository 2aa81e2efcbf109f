"""Connect to a Dask cluster, or start one on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sar2optical._utils.cores import usable_cores
from sar2optical._utils.signals import ignore_sigint, sigint_ignored
from sar2optical.errors import BackendNotInstalled, OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connected", "dask_setup", "default_threads"]

_TIMEOUT = 10
"""Seconds within which a scheduler must answer."""

_START_TIMEOUT = 120
"""Seconds within which the workers of a local cluster must start."""

_NVIDIA = Path("/proc/driver/nvidia/gpus")
"""Folder in which Linux lists the GPUs that the driver has found."""


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[tuple[Client, int]]:
    """Connect to a Dask cluster, and yield a client and the number of workers.

    Parameters
    ----------
    scheduler
        Address of a running scheduler; None: start a cluster on this machine.
    workers
        Number of processes of the cluster on this machine; None: one per GPU, or one if there is none.

    Raises
    ------
    BackendNotInstalled
        Dask is not installed.
    OptionError
        The scheduler does not answer, or has no worker.
    """
    try:
        import distributed
    except ImportError as error:
        raise BackendNotInstalled("translating many scenes needs Dask: pip install 'sar2optical[cluster]'") from error
    if scheduler:
        try:
            client = distributed.Client(scheduler, timeout=_TIMEOUT)
        except (OSError, ValueError, TimeoutError) as error:
            raise OptionError(f"scheduler {scheduler}: does not answer: check the address") from error
        with client:
            count = len(client.scheduler_info(n_workers=-1)["workers"])
            if not count:
                raise OptionError(f"scheduler {scheduler}: has no worker: start some (dask worker {scheduler})")
            yield client, count
        return
    with _local_cluster(workers) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(len(cluster.worker_spec), timeout=_START_TIMEOUT)
        yield client, len(cluster.worker_spec)


@contextmanager
def _local_cluster(workers: int | None) -> Iterator[Any]:
    """Start a cluster of processes on this machine; several GPUs are distributed among them."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = sorted(_NVIDIA.iterdir()) if _NVIDIA.is_dir() else []
    count = workers or max(1, len(gpus))
    # The pipeline bounds its memory itself; Dask would pause or kill a worker above its own limit.
    common: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": 0,
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
        "preload": [__name__],  # for `dask_setup`
    }
    specs = {}
    for k in range(count):
        env = {"CUDA_VISIBLE_DEVICES": str(k % len(gpus))} if len(gpus) > 1 else {}
        specs[k] = {"cls": Nanny, "options": {**common, "env": env}}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    # A terminal sends Ctrl-C to every process: only the one that the user started handles it.
    with sigint_ignored():
        cluster = SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.CRITICAL)
    with cluster:
        yield cluster


def dask_setup(_: Any) -> None:
    """Ignore Ctrl-C in a worker that replaces a lost one; Dask calls this function by its name."""
    ignore_sigint()


def default_threads(workers: int) -> int:
    """Return the number of threads of each worker's engine, where `workers` share this machine."""
    return max(1, usable_cores() // workers)
