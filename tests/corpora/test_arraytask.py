"""Stages 1 and 2 dealt to the tasks of a job array: the same result, with nothing done twice."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from audiotag.configcorpus import AudioSetCorpus
from audiotag.corpora import features, probecache
from audiotag.corpora.arraytask import ArrayTask, parse_task
from audiotag.corpora.audioset import prepare_audioset
from audiotag.corpora.features import extract_splits
from audiotag.corpora.journal import read_journal

COUNT = 3
TASKS = [ArrayTask(number, COUNT) for number in range(1, COUNT + 1)]


@pytest.fixture
def filled(folder):
    for number in range(10):
        folder.clip("train", f"train_{number:05d}")
    for number in range(3):
        folder.clip("eval", f"eval_{number:05d}")
    folder.write_lists()
    return folder


def contents(root: Path, *patterns: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for pattern in patterns for path in root.glob(pattern)
    }


def prepare(folder, manifests: Path, task: ArrayTask | None = None) -> None:
    settings = AudioSetCorpus(
        dir=str(folder.corpus),
        train_lists=["train_segments.csv"],
        eval_lists=["eval_segments.csv"],
        valid_share=0.2,
    )
    prepare_audioset(manifests, settings, task=task)


def test_each_item_is_in_one_share():
    items = list(range(10))
    assert sorted(item for task in TASKS for item in task.share(items)) == items
    assert max(len(task.share(items)) for task in TASKS) == 4
    assert ArrayTask(12, 12).share(items) == []


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/x", "-1/3", "1/3/5", ""])
def test_what_is_no_task_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/N"):
        parse_task(text)
    assert parse_task("3/64") == ArrayTask(3, 64)


def test_stage_1_by_tasks_is_stage_1(filled, tmp_path, monkeypatch):
    prepare(filled, tmp_path / "whole")
    parts = tmp_path / "parts"
    for task in reversed(TASKS):
        prepare(filled, parts, task)
    assert {path.name for path in parts.iterdir()} == {
        f"probes.part{number}-of-3.jsonl" for number in (1, 2, 3)
    }
    monkeypatch.setattr(probecache, "probe_task", lambda task: pytest.fail(f"{task} is opened again"))
    prepare(filled, parts)
    assert contents(parts, "cuts_*.jsonl", "*.csv", "*.txt") == contents(
        tmp_path / "whole", "cuts_*.jsonl", "*.csv", "*.txt"
    )
    assert not list(parts.glob("probes.part*"))
    assert len(list(read_journal(parts / "probes.jsonl"))) == 13


def test_what_a_killed_task_left_undone_the_stage_does(filled, tmp_path):
    prepare(filled, tmp_path / "whole")
    parts = tmp_path / "parts"
    for task in TASKS:
        prepare(filled, parts, task)
    part = parts / "probes.part2-of-3.jsonl"
    part.write_bytes(part.read_bytes()[:-20])
    (parts / "probes.part3-of-3.jsonl").unlink()
    prepare(filled, parts)
    assert contents(parts, "cuts_*.jsonl") == contents(tmp_path / "whole", "cuts_*.jsonl")


def test_a_task_that_runs_again_goes_on(filled, tmp_path, monkeypatch):
    prepare(filled, tmp_path, TASKS[0])
    monkeypatch.setattr(probecache, "probe_task", lambda task: pytest.fail(f"{task} is opened again"))
    prepare(filled, tmp_path, TASKS[0])


def test_stage_2_by_tasks_is_stage_2(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("audiotag.corpora.shards.SMALLEST_SHARD", 2)
    prepare(filled, filled.manifests)
    extract_splits(filled.data, preset="ast128")
    store = filled.data / "fbank" / "ast128"
    whole = contents(store, "*.jsonl", "archives/*")
    for path in store.rglob("*"):
        if path.is_file():
            path.unlink()
    shares = []
    for task in TASKS:
        extract_splits(filled.data, preset="ast128", task=task)
        shares.append(len(list((store / "archives").glob("*.jsonl"))))
        assert not list(store.glob("*.jsonl"))
    assert 0 < shares[0] < shares[1] < shares[2]
    monkeypatch.setattr(features, "extract_shard", lambda *arguments: pytest.fail("made again"))
    extract_splits(filled.data, preset="ast128")
    assert contents(store, "*.jsonl", "archives/*") == whole
