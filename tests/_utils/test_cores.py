"""Threads follow the CPU time that a container gives, not only the cores that it shows."""

from __future__ import annotations

import os

import pytest

from sar2optical._utils.cores import usable_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 16), ("9900000 100000", 16)],
)
def test_the_quota_of_a_control_group_counts(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(f"{text}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 16)])
def test_the_quota_of_version_1_counts(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("text", ["", "nonsense", "max"])
def test_without_a_readable_quota_the_affinity_counts(tmp_path, text):
    assert usable_cores(tmp_path) == 16
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == 16
