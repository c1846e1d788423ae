"""A full disk: one line that says so, what was there stays, and with more room the command goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audiotag.evaluation.results import read_evaluation


def slow(value: int):
    """A parameter of a test that takes some seconds like the others."""
    return pytest.param(value, marks=pytest.mark.slow)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("filler", ".run.lock") and path.suffix != ".idx"
    }


def refused(done) -> None:
    """A command ended by a full disk as it should."""
    assert done.returncode == 6, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "free some space" in line or "has space" in line, line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("left", [slow(0), 12_000, slow(40_000)])
def test_manifests(recipe, small_disk, left):
    small_disk.leave(left)
    data = small_disk.folder / "data"
    refused(recipe.run("prepare", "--config", "config.yaml", "--data-dir", str(data)))
    assert not (data / "manifests" / "cuts_train.jsonl").exists()
    assert not list(data.rglob(".*.tmp"))
    small_disk.free()
    again = recipe.run("prepare", "--config", "config.yaml", "--data-dir", str(data))
    assert again.returncode == 0, again.stderr
    made = (data / "manifests" / "cuts_train.jsonl").read_bytes()
    assert made == (recipe.folder / "data/manifests/cuts_train.jsonl").read_bytes()


def test_features(recipe, small_disk):
    data = small_disk.folder / "data"
    shutil.copytree(recipe.folder / "data" / "manifests", data / "manifests")
    arguments = ("extract_features", "--config", "config.yaml", "--data-dir", str(data))
    arguments += ("--set", "features.storage=stored", "--nj", "1")
    small_disk.leave(300_000)
    refused(recipe.run(*arguments))
    assert not list(data.rglob(".*.tmp"))
    kept = {path: path.read_bytes() for path in data.rglob("*.lca") if path.with_suffix(".jsonl").exists()}
    small_disk.free()
    again = recipe.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert (data / "fbank" / "ast128" / "cuts_eval.jsonl").exists()


@pytest.mark.parametrize("left", [slow(4096), 8192, slow(16384)])
@pytest.mark.slow
def test_scores_and_what_was_evaluated_before(recipe, finished, small_disk, left):
    exp = small_disk.folder / "exp"
    exp.mkdir()
    for name in ("epoch-4.pt", "config.yaml"):
        shutil.copy(finished / name, exp)
    arguments = ("evaluate", "--config", "config.yaml", "--exp-dir", str(exp))
    arguments += ("--set", "evaluation.epoch=4", "--set", "evaluation.bootstrap=0")
    before = contents(exp)
    small_disk.leave(left)
    refused(recipe.run(*arguments))
    for name, content in before.items():
        assert contents(exp)[name] == content
    # Without metrics.json nobody takes the folder for an evaluation.
    assert not list(exp.rglob("metrics.json")) and not list(exp.rglob(".*.tmp"))
    small_disk.free()
    again = recipe.run(*arguments)
    assert again.returncode == 0, again.stderr
    [folder] = exp.glob("eval_eval_*")
    assert len(read_evaluation(folder).scores().ids) == 12
    # Evaluated once more on a disk that is full again, the folder is what it was.
    before = contents(folder)
    small_disk.leave(left)
    refused(recipe.run(*arguments))
    assert contents(folder) == before and sorted(path.name for path in folder.iterdir()) == sorted(before)


@pytest.mark.slow
def test_an_export(recipe, finished, small_disk):
    dest = small_disk.folder / "export"
    arguments = (
        "export",
        "--config",
        "config.yaml",
        "--exp-dir",
        str(finished),
        "--set",
        "evaluation.epoch=4",
    )
    arguments += ("--to", "package", "--dest", str(dest))
    small_disk.leave(8192)
    refused(recipe.run(*arguments))
    assert not (dest / "config.json").exists() and not list(dest.rglob(".*.tmp"))
    small_disk.free()
    again = recipe.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert json.loads((dest / "config.json").read_text())["format"] == "audiotag-model"
    before = contents(dest)
    small_disk.leave(8192)
    refused(recipe.run(*arguments))
    assert contents(dest) == before and sorted(path.name for path in dest.iterdir()) == sorted(before)
