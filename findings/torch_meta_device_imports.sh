#!/usr/bin/env bash
# What most would guess: running a convolution on PyTorch's meta device is the cheap way to learn the sizes of a network's layers: it
#   computes nothing and holds no memory.
# What happens: the first convolution and batch norm there import PyTorch's symbolic shapes (with sympy) and torch._dynamo, its compiler:
#   hundreds of modules, longer than the same layers take on the CPU with real numbers.
# Version: torch 2.13.0 (CPU build), numpy 2.4.6. Date: 2026-11-28. Also seen with 2.11.0 (CUDA 13): 6 s at the start of a program.
# Source: torch/_meta_registrations.py and torch/_decomp/decompositions.py, reached from the meta kernels.
# Why a user cares: a program that opens a generator for one scene pays it at each start. sar2optical finds unused kernel taps with one
#   real window instead (sar2optical/models/wide.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch
from torch import nn


def modules_of(device):
    """Run two layers; return the modules that this imports, and the seconds."""
    with torch.device(device):
        layers = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4)).eval()
        window = torch.zeros(1, 1, 256, 256)
    before, began = set(sys.modules), time.perf_counter()
    with torch.inference_mode():
        layers(window)
    return set(sys.modules) - before, time.perf_counter() - began


on_cpu, cpu_seconds = modules_of("cpu")
on_meta, meta_seconds = modules_of("meta")
print(f"torch {torch.__version__}: cpu imports {len(on_cpu)} modules, {cpu_seconds:.2f} s; "
      f"meta imports {len(on_meta)} modules, {meta_seconds:.2f} s")
assert len(on_cpu) < 10
assert {"sympy", "torch._dynamo"} <= on_meta
PYTHON
echo "as described"
