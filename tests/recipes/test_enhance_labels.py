"""Segment lists with enhanced labels in place of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# YTID, start_seconds, end_seconds, positive_labels
--4gq_RaEJE, 0.000, 10.000, "/m/a,/m/b"
-0RWZT-miFs, 30.000, 40.000, "/m/b"
zzzzzzzzzzz, 1.000, 11.000, "/m/c"
"""
ENHANCED = [
    {"video_id": "--4gq_RaEJE", "labels": "/m/a,/m/c,/m/unknown"},
    {"video_id": "-0RWZT-miFs", "labels": "/m/unknown"},
    {"video_id": "elsewhere..", "labels": "/m/a"},
]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "segments.csv").write_text(SEGMENTS)
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n2,/m/c,C\n")
    return tmp_path


def run(folder: Path, content: object) -> subprocess.CompletedProcess:
    (folder / "enhanced.json").write_text(content if isinstance(content, str) else json.dumps(content))
    program = str(ROOT / "egs/as20k/local/enhance_labels.py")
    return subprocess.run(
        [sys.executable, program, "enhanced.json", "segments.csv", "out.csv", "--labels", "labels.csv"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("wrapped", [True, False])
def test_known_labels_take_the_place_of_the_old_ones(folder, wrapped):
    done = run(folder, {"data": ENHANCED} if wrapped else ENHANCED)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 clips got other labels" in done.stdout
    expected = SEGMENTS.splitlines()
    expected[2] = '--4gq_RaEJE, 0.000, 10.000, "/m/a,/m/c"'
    assert (folder / "out.csv").read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a list of enhanced labels"),
        ([{"video_id": "a"}], "not a list of enhanced labels"),
        ([], "names none of the clips"),
    ],
)
def test_other_files_are_refused(folder, content, words):
    done = run(folder, content)
    assert done.returncode == 3 and words in done.stderr
    assert not (folder / "out.csv").exists()
