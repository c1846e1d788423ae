"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>: the signal that a process gets when its parent dies


def signal_at_parents_death(number: signal.Signals) -> None:
    """Have the system send this process a signal once its parent is dead, however it died (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
