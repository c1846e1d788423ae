"""The memory that a process and its children hold."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from audiotag.training import memory
from audiotag.training.memory import MIB, MemoryGauge, held_mib


def test_what_is_held_counts_while_it_is_held():
    before = held_mib()
    block = np.ones(64 * MIB, np.uint8)
    assert 50 < held_mib() - before < 90
    del block
    assert abs(held_mib() - before) < 20


def test_children_count_too():
    before = held_mib()
    code = f"block = bytearray(b'1' * {64 * MIB}); print(len(block), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        assert held_mib() - before > 55
        child.communicate("\n")
    assert held_mib() - before < 30


def test_the_gauge_asks_seldom(monkeypatch):
    now, asked = [0.0], []

    def hold():
        now[0] += 0.01
        asked.append(now[0])
        return 100.0 + len(asked)

    monkeypatch.setattr(memory, "held_mib", hold)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    gauge = MemoryGauge(torch.device("cpu"))
    readings = []
    for now[0] in (1.0, 2.0, 11.0, 11.02, 12.0):
        readings.append(gauge.read()["train/memory_mib"])
    assert readings == [101.0, 101.0, 101.0, 102.0, 102.0]
