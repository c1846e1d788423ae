"""The recipe for a user's own recordings, from a CSV or folders to results; paths have blanks and signs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile

TINY = """
include: ast_tiny.yaml
features: {target_frames: 64}
encoder: {embed_dim: 16, depth: 1, num_heads: 2}
data: {batch_size: 8, num_workers: 0}
training: {epochs: 2}
evaluation: {avg: 2, splits: [eval]}
"""


@pytest.fixture
def recipe(tree):
    """The recipe's folder, with a really tiny model."""
    (tree / "egs/mydata/conf/tiny.yaml").write_text(TINY)
    return tree / "egs/mydata"


@pytest.fixture
def corpus(tmp_path):
    """Forty clips of two classes in one folder for each class, of several formats."""
    folder = tmp_path / "it's my corpus #1"
    rng = np.random.default_rng(0)
    for number in range(40):
        low = number % 2
        rate, extension, channels = ((8000, "wav", 1), (44100, "flac", 2), (16000, "ogg", 1))[number % 3]
        path = folder / ("low sound" if low else "high") / f"clip {number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(2 * np.pi * (300 if low else 3000) * np.arange(rate // 2) / rate)
        samples = 0.3 * tone[:, None] + 0.01 * rng.standard_normal((rate // 2, channels))
        soundfile.write(path, samples.astype(np.float32), rate)
    return folder


def states(done):
    """What the driver said of each stage: started, already done, nothing to do."""
    said = re.findall(r"\[stage (\d): \w+\] (started|already done|nothing to do)", done.stdout)
    return {int(stage): state for stage, state in said}


@pytest.mark.slow
def test_from_a_list_to_results(drive, recipe, corpus):
    clips = sorted(path.relative_to(corpus) for path in corpus.rglob("clip*"))
    rows = [f"{clip},{clip.parts[0]}" for clip in clips]
    (corpus / "my list.csv").write_text("\n".join(["path,labels", *rows]) + "\n")
    env = {"MYDATA": str(corpus / "my list.csv")}
    arguments = ("--recipe", "mydata", "--config", "conf/tiny.yaml")
    for stages in (("--stop-stage", "4"), ("--stage", "5", "--stop-stage", "7")):
        done = drive(*arguments, *stages, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    log = (recipe / "data/log/stage1.log").read_text()
    assert "2 classes, inferred from the labels" in log and "task: single-label" in log
    assert "| eval | epoch2-avg2 | 4 |" in (recipe / "exp/tiny/RESULTS.md").read_text()
    labels = (recipe / "data/manifests/labels.csv").read_text()
    assert labels == "index,mid,display_name\n0,high,high\n1,low sound,low sound\n"

    again = states(drive(*arguments, "--stop-stage", "7", env=env))
    assert [stage for stage, state in again.items() if state == "started"] == [0]


def test_from_folders_by_a_relative_path_to_manifests_and_what_another_clip_redoes(drive, recipe, corpus):
    arguments = ("--recipe", "mydata", "--stop-stage", "1")
    env = {"MYDATA": corpus.name}
    done = drive(*arguments, cwd=corpus.parent, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    coverage = json.loads((recipe / "data/manifests/coverage.json").read_text())
    assert coverage["notes"]["task"] == "single-label"
    assert sum(coverage[split]["present"] for split in ("train", "valid", "eval")) == 40
    (corpus / "high" / "clip 0.wav").rename(corpus / "high" / "clip 00.wav")
    assert states(drive(*arguments, cwd=corpus.parent, env=env))[1] == "started"


def test_a_corpus_that_is_not_there_is_asked_for(drive, recipe, tmp_path):
    unset = drive("--recipe", "mydata", "--stop-stage", "0")
    assert unset.returncode == 2
    assert "MYDATA is not set: write it into db.sh" in unset.stderr
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "empty list.csv").touch()
    for name, message in {
        "a way": "is neither a folder nor a file",
        "empty folder": "is empty",
        "empty list.csv": "is empty",
    }.items():
        done = drive(str(tmp_path / name), script=recipe / "local/data.sh")
        assert done.returncode == 2
        assert f"MYDATA={tmp_path / name} {message}" in done.stderr
