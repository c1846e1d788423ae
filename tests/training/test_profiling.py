"""Traces of chosen updates: which are in them, where they lie, and specs that name none."""

from __future__ import annotations

import gzip
import json
import logging

import pytest
import torch

from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.training.profiling import make_profiler, parse_spec

FIRST = World(0, 0, 2, torch.device("cpu"))
SECOND = World(1, 1, 2, torch.device("cpu"))


def train(spec, folder, updates, world=FIRST, done=0) -> None:
    """Updates that each multiply two matrices."""
    profiler = make_profiler(spec, folder, world, done=done)
    for update in updates:
        torch.ones(20, 20) @ torch.ones(20, 20)
        profiler.step(update)
    profiler.close()


def traced(folder) -> tuple[list[str], int]:
    """The updates that a trace is marked with, and its matrix products."""
    (path,) = folder.glob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    return sorted({name for name in names if name.startswith("update ")}), names.count("aten::mm")


@pytest.mark.parametrize(
    ("spec", "updates", "done", "name", "marks"),
    [
        ("3:4", range(1, 9), 0, "updates-3-4", ["update 3", "update 4"]),
        ("1", range(1, 4), 0, "updates-1-1", ["update 1"]),
        ("5:6,memory,shapes", range(5, 9), 4, "updates-5-6", ["update 5", "update 6"]),
        # A run that goes on inside, and one that ends there, have a part of it.
        ("3:6", range(5, 9), 4, "updates-5-6", ["update 5", "update 6"]),
        ("3:9", range(1, 5), 0, "updates-3-4", ["update 3", "update 4"]),
    ],
)
def test_the_chosen_updates_are_traced(tmp_path, spec, updates, done, name, marks):
    train(spec, tmp_path / "profile", updates, done=done)
    found = sorted(path.name for path in (tmp_path / "profile").iterdir())
    assert found == [f"{name}.rank0.ops.txt", f"{name}.rank0.trace.json.gz"]
    shown, products = traced(tmp_path / "profile")
    assert [mark for mark in shown if mark in marks] == marks
    assert products == len(marks)
    table = (tmp_path / "profile" / f"{name}.rank0.ops.txt").read_text()
    assert "aten::mm" in table
    assert ("CPU Mem" in table, "Input Shapes" in table) == ("memory" in spec, "shapes" in spec)


def test_nothing_is_traced_when_nobody_asks(tmp_path):
    train(None, tmp_path / "profile", range(1, 5))
    assert not (tmp_path / "profile").exists()


def test_only_the_first_process_traces_unless_all_are_asked_for(tmp_path):
    train("2", tmp_path / "profile", range(1, 4), world=SECOND)
    assert not (tmp_path / "profile").exists()
    train("2,ranks", tmp_path / "profile", range(1, 4), world=SECOND)
    assert (tmp_path / "profile" / "updates-2-2.rank1.trace.json.gz").exists()


@pytest.mark.parametrize(("updates", "done"), [(range(1, 4), 0), (range(31, 34), 30)])
def test_updates_that_never_come_are_named(tmp_path, caplog, updates, done):
    with caplog.at_level(logging.WARNING):
        train("10:15", tmp_path, updates, done=done)
    assert "updates 10 to 15" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec", ["", "0:3", "x", "3-5", "5:", ":5", "3:5,", "3:5,colours", "9:8", "3:5 memory"]
)
def test_a_spec_that_cannot_be_used_says_what_is_expected(spec):
    with pytest.raises(ConfigError, match="--profile"):
        parse_spec(spec)
