"""Time windows on ONNX Runtime with one thread: each line of the input asks for so many, the answer is seconds."""

from __future__ import annotations

import sys
import time

import numpy as np

from sar2optical.engines import open_engine
from sar2optical.engines.base import EngineOptions
from sar2optical.engines.registry import bundled

options = EngineOptions(precision="fp32", device="cpu", threads=1, batch=1)
with open_engine(bundled(), backend="onnxruntime", options=options) as engine:
    sar = np.random.default_rng(3).uniform(-1, 1, (1, 1, engine.window, engine.window)).astype(np.float32)
    engine.run(sar)
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            engine.run(sar)
        print(time.perf_counter() - started, flush=True)
