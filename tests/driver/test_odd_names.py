"""Names of files, folders and classes that shells, options, tables and CSV might take for something else."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from clone import environment

from audiotag.evaluation.scores import Scores

TINY = """
include: ast_tiny.yaml
features: {target_frames: 32, storage: stored}
encoder: {embed_dim: 16, depth: 1, num_heads: 2}
data: {batch_size: 8, num_workers: 0}
training: {epochs: 1}
evaluation: {avg: 1, splits: [valid, eval]}
corpus: {valid_share: 0.2, eval_share: 0.2, max_skip: 0.5}
"""
CLASSES = ("-rf", "$(touch executed)", "a | b <b>", 'it\'s `x` "y"', "ünï 音 & \\n", "*")
NAMES = (
    "-rf", "--help", "$(touch executed)", "`touch executed`", "it's", 'say "yes"', "a;b&c|d", " two  blanks ",
    "new\nline", "tab\there", "ünï 音 é", "*", "?[a-z]", "%s%n", "back\\slash", "[x](y)", "=1+1", "<script>",
    "#no comment", "a,b", "~", "!!", "${HOME}", "\x1b[31mred",
)  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    """One folder for each class, in each of which every name is once."""
    folder = tmp_path / "it's $(touch executed) `touch executed` #1"
    rng = np.random.default_rng(0)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for name in NAMES:
            soundfile.write(str(folder / label / f"{name}.wav"), 0.1 * rng.standard_normal(3200), 16000)
    return folder


@pytest.mark.slow
def test_odd_names_go_through_all_stages(drive, tree, corpus, tmp_path):
    recipe = tree / "egs/mydata"
    (recipe / "conf/tiny.yaml").write_text(TINY)
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    env = {"MYDATA": str(corpus), "HOME": str(home), "TMPDIR": str(temporary)}
    for stage in map(str, range(9)):
        arguments = ("--recipe", "mydata", "--config", "conf/tiny.yaml", "--tag", "odd")
        done = drive(*arguments, "--stage", stage, "--stop-stage", stage, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    # Outside of the recipe nothing is written; lhotse and torch make empty folders when they are imported.
    assert [path for path in (*home.rglob("*"), *temporary.rglob("*")) if not path.is_dir()] == []
    assert not list(tmp_path.rglob("executed"))

    exp = recipe / "exp/odd"
    ids = set()
    for split in ("train", "valid", "eval"):
        lines = (recipe / f"data/manifests/cuts_{split}.jsonl").read_text().splitlines()
        ids |= {json.loads(line)["id"] for line in lines}
    # An id in lists of one line each cannot hold a line break: such clips are listed with that reason.
    plain = [name for name in NAMES if name.isprintable()]
    assert ids == {f"{label}/{name}" for label in CLASSES for name in plain}
    skipped = "".join(path.read_text() for path in recipe.glob("data/manifests/skipped_*.csv"))
    assert skipped.count("bad id") == len(CLASSES) * (len(NAMES) - len(plain))
    [scores] = exp.glob("eval_eval_*/scores.npz")
    assert set(Scores.load(scores).ids) <= ids
    for path in [*exp.rglob("*.csv"), *recipe.glob("data/manifests/*.csv")]:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
        assert {len(row) for row in rows} == {len(rows[0])}, path
    assert_whole_tables((exp / "RESULTS.md").read_text())
    assert_predicted(exp / "export", corpus, tmp_path)


def assert_whole_tables(text: str) -> None:
    """Each table of Markdown has as many cells in each row, and as many rows as there are classes."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(counts) == 1, block
    assert "a \\| b" in text


def assert_predicted(model, corpus, tmp_path) -> None:
    """Every file is found in the outputs of predict by its own path, in each format."""
    paths = sorted(str(path) for path in corpus.rglob("*.wav"))
    for form in ("json", "csv", "table"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "audiotag.bin.predict",
                "--model",
                str(model),
                "--format",
                form,
                "--",
                *paths,
            ],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if form == "json":
            assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == paths
        elif form == "csv":
            rows = list(csv.DictReader(done.stdout.splitlines(keepends=True)))
            assert list(dict.fromkeys(row["path"] for row in rows)) == paths
        else:
            assert "\x1b" not in done.stdout
    assert not list(tmp_path.rglob("executed"))
