"""The memory that a process and its children hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from audiotag.training import memory
from audiotag.training.memory import MemoryGauge

ROOT = Path(__file__).resolve().parents[2]


# In a process of its own, where nothing that other tests have left is given back meanwhile.
PROGRAM = """
import subprocess, sys
from audiotag.training.memory import MIB, held_mib

before = held_mib()
block = bytearray(b"1" * (64 * MIB))
print(held_mib() - before)
del block
print(held_mib() - before)
code = f"block = bytearray(b'1' * {64 * MIB}); print(len(block), flush=True); input()"
with subprocess.Popen(
    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
) as child:
    child.stdout.readline()
    print(held_mib() - before)
    child.communicate("\\n")
print(held_mib() - before)
"""


def test_what_is_held_counts_while_it_is_held_also_by_children():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    held, given_back, with_child, without = map(float, done.stdout.split())
    assert 50 < held < 90
    assert abs(given_back) < 20
    assert with_child - given_back > 55
    assert without < 30


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
