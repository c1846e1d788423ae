"""The watchdog itself: a hang, a crash, an exception and too much memory are results like others."""

from __future__ import annotations

import os
import time

import numpy as np

from tests.sweep.guard import CRASH, HANG, MEMORY_BYTES, guarded


def misbehave(how: str) -> str:
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os._exit(0)
    if how == "raise":
        raise KeyError("x")
    if how == "eat":
        return str(np.ones(2 * MEMORY_BYTES, dtype=np.uint8).sum())
    return f"good {how}"


def test_each_case_has_a_result_whatever_the_others_do():
    results = guarded(misbehave, ["1", "hang", "2", "crash", "raise", "3", "eat", "4"], patience_s=3.0)
    assert list(results) == ["1", "hang", "2", "crash", "raise", "3", "eat", "4"]
    assert [results[number] for number in "1234"] == ["good 1", "good 2", "good 3", "good 4"]
    assert results["hang"] == HANG and results["crash"] == CRASH
    assert results["raise"] == "KeyError: 'x'" and "MemoryError" in results["eat"]
