"""Damaged stores of teachers' scores and of embeddings: made again, or what is read is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audiotag.data.rowstore import RowStore
from audiotag.distillation.hearing import SCORES
from tests.sweep.anydamage import sweep
from tests.sweep.reading import Refusal

IDS = np.array([f"clip{number}".encode() for number in range(40)])
ROWS = np.random.default_rng(0).standard_normal((40, 10)).astype(np.float32)

INPUTS = np.linspace(-9, 3, 4 * 8, dtype=np.float32).reshape(4, 8)


@pytest.fixture(params=["float16", "float32"])
def store(tmp_path, request) -> RowStore:
    """A finished store that still has its blocks."""
    store = RowStore(tmp_path, "key", 40, 10, block_clips=25, kind=replace(SCORES, dtype=request.param))
    store.prepare(INPUTS)
    for block in store.missing_blocks():
        store.write_block(block, ROWS[list(store.positions(block))])
    store.finish(IDS, {"teachers": ["a"]})
    return store


@pytest.mark.parametrize("name", ["scores.npy", "ids.npy", "store.json", "inputs.npz"])
def test_finished_stores(store, name):
    def opened() -> object:
        if not store.is_complete(INPUTS):
            return Refusal("made again")
        rows, ids = store.open()
        return rows.tolist(), ids.tolist()

    good = opened()
    assert sweep(store.folder / name, opened, lambda found: found == good) > 150


@pytest.mark.parametrize("name", ["scores.npy", "ids.npy"])
def test_damage_after_the_check_gives_a_message(store, name):
    """Rows are not compared again when they are read, but no damage ends in a traceback."""
    path = store.folder / name
    assert sweep(path, store.open, lambda found: True, named=store.folder) > 150


def test_blocks(store):
    good = store.read_block(0).tolist()
    path = store.block_path(0)
    assert sweep(path, lambda: store.read_block(0).tolist(), lambda found: found == good) > 150
