"""Who waits for a store: looks at what another run does, over locks and without them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from audiotag.data.rowstore import RowStore
from audiotag.distillation.hearing import SCORES
from audiotag.distributed import World
from audiotag.errors import StoppedBySignal
from audiotag.training import runlock, turns
from audiotag.training.runlock import LOCK_NAME
from audiotag.training.signals import StopRequest
from audiotag.training.turns import take_turn

WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
INPUTS = np.zeros((4, 8), np.float32)


@pytest.fixture
def store(tmp_path) -> RowStore:
    """Seven clips in three blocks, of which one is done."""
    store = RowStore(tmp_path / "store", "key", 7, 3, block_clips=3, kind=SCORES)
    store.write_block(0, np.zeros((3, 3), np.float32))
    return store


def finish(store: RowStore, start: int = 1) -> None:
    for block in range(start, 3):
        store.write_block(block, np.zeros((len(store.positions(block)), 3), np.float32))
    store.finish(np.array([b"a"] * 7), {})


@pytest.fixture
def quick(monkeypatch):
    """Looks and beats that a test can wait for."""
    monkeypatch.setattr(turns, "LOOK_S", 0.05)
    monkeypatch.setattr(runlock, "BEAT_S", 0.1)
    monkeypatch.setattr(runlock, "SILENCE_S", 1.0)


@contextlib.contextmanager
def held_elsewhere(store: RowStore, *, beats: bool = True):
    """A run on a machine whose locks do not reach this one; yields the event that ends it."""
    path = store.folder / LOCK_NAME
    path.write_text(json.dumps({"host": "node7", "pid": 4321, "job": "815", "since": "today"}))
    left = threading.Event()
    thread = threading.Thread(target=runlock.beat, args=(path, left))
    if beats:
        thread.start()
    try:
        yield left
    finally:
        left.set()
        if beats:
            thread.join()


def turn(store: RowStore, stop: StopRequest | None = None) -> tuple[bool, str | None]:
    """Whether it is this run's turn, and whom the lock file names while it is."""
    with ExitStack() as held:
        ours = take_turn(store, INPUTS, held, WORLD, stop or StopRequest())
        text = (store.folder / LOCK_NAME).read_text() if (store.folder / LOCK_NAME).exists() else ""
        return ours, json.loads(text)["pid"] if text else None


def later(seconds: float, action) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_nobody_is_waited_for_where_nobody_is(store):
    assert turn(store) == (True, os.getpid())
    assert (store.folder / LOCK_NAME).read_text() == ""
    finish(store)
    before = sorted(path.name for path in store.folder.iterdir())
    assert turn(store) == (False, None)
    assert sorted(path.name for path in store.folder.iterdir()) == before


def test_what_another_run_finished_until_the_lock_was_taken_is_not_made_again(store, monkeypatch):
    monkeypatch.setattr(turns, "running_in", lambda *_, **__: finish(store))
    assert not turn(store)[0]


def test_a_run_whose_locks_are_not_seen_is_waited_for_while_it_beats(store, quick, caplog):
    caplog.set_level(logging.INFO)
    with held_elsewhere(store):
        timer = later(1.0, lambda: finish(store))
        start = time.monotonic()
        assert turn(store) == (False, 4321)  # although that run has not left yet
        assert 0.9 < time.monotonic() - start < 10
        timer.join()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert (
        "run (process 4321 on node7, job 815, since today), which is making the teachers' scores" in lines[0]
    )
    assert lines[0].endswith(": 3 of 7 clips are done")


def test_a_run_that_beats_no_longer_is_taken_over(store, quick, caplog):
    caplog.set_level(logging.INFO)
    with held_elsewhere(store) as left:
        later(0.5, left.set)
        assert turn(store) == (True, os.getpid())
    assert "that run has ended before all were made: this one goes on behind it" in caplog.text
    assert store.missing_blocks() == [1, 2]


def test_progress_is_told_from_time_to_time(store, quick, caplog, monkeypatch):
    monkeypatch.setattr(turns, "REPORT_S", 0.3)
    caplog.set_level(logging.INFO)
    with held_elsewhere(store):
        later(0.7, lambda: store.write_block(1, np.zeros((3, 3), np.float32)))
        later(1.4, lambda: finish(store, 2))
        assert not turn(store)[0]
    lines = [record.getMessage() for record in caplog.records]
    assert 3 <= len(lines) <= 6, lines
    assert "3 of 7" in lines[0] and any("6 of 7" in line for line in lines)


def test_a_stop_ends_the_wait_for_a_beat(store):
    """Which may take 20 s where a machine is down."""
    stop = StopRequest()
    with held_elsewhere(store, beats=False):
        later(1.0, lambda: setattr(stop, "name", "SIGUSR1"))
        start = time.monotonic()
        with pytest.raises(StoppedBySignal, match="stopped by SIGUSR1 while it waited for another run"):
            turn(store, stop)
        assert time.monotonic() - start < 4
    assert json.loads((store.folder / LOCK_NAME).read_text())["pid"] == 4321


def test_what_another_run_is_about_to_make_again_is_read_once(store, quick, caplog):
    finish(store)
    store.path.write_bytes(store.path.read_bytes()[:-1])
    with held_elsewhere(store):
        later(1.0, lambda: finish(store, 0))
        assert not turn(store)[0]
    assert caplog.text.count("was changed after it was written") == 1
