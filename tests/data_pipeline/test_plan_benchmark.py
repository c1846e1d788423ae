"""The benchmark of index and plan: its manifest, its measurements and the command."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet, MonoCut
from manifests import record

from audiotag.benchmarks import lhotsecuts, plan, processes
from audiotag.benchmarks.generated import LINE, first_cuts, generate_lines, generated_manifest
from audiotag.benchmarks.index import build, digest_of_part, open_and_use, rest_is_complete, resume
from audiotag.data.index import IndexedManifest

ROOT = Path(__file__).resolve().parents[2]
NUM_CUTS = 600


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return generated_manifest(tmp_path_factory.mktemp("generated"), NUM_CUTS)


@pytest.fixture(scope="module")
def args():
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    return parser.parse_args(["--cuts", str(NUM_CUTS), "--folder", "x", "--world-sizes", "1", "3"])


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "audiotag.bin.benchmark_data", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def keys_of(value):
    """The names in nested JSON, without its values."""
    if isinstance(value, dict):
        return {key: keys_of(part) for key, part in value.items()}
    return [keys_of(part) for part in value] if isinstance(value, list) else type(value)


def test_generated_cuts_are_those_of_stage_1(path):
    lines = path.read_text().splitlines()
    assert len(lines) == NUM_CUTS
    assert keys_of(json.loads(lines[0])) == keys_of(record("x", 10.0, "0"))
    cuts = list(CutSet.from_jsonl_lazy(path))
    assert all(isinstance(cut, MonoCut) and cut.end <= cut.recording.duration for cut in cuts)
    assert list(generate_lines(5)) == list(generate_lines(5))
    assert LINE.count("{id}") == 5


def test_generated_cuts_look_like_audioset(path):
    manifest = IndexedManifest(path)
    ids = manifest.ids()
    assert ids.dtype == "S11" and len(np.unique(ids)) == NUM_CUTS
    assert 0.88 < (manifest.durations == 10.0).mean() < 0.97 and manifest.durations.min() >= 0.5
    counts = np.diff(manifest.label_starts)
    assert counts.min() == 1 and counts.max() == 3
    frequencies = np.sort(np.bincount(manifest.label_ids, minlength=527))[::-1]
    assert frequencies[0] > 0.2 * NUM_CUTS and (frequencies[-100:] <= 2).all()


def test_the_first_cuts_of_a_manifest(path):
    few = IndexedManifest(first_cuts(path, 7))
    assert [few.record(place) for place in range(7)] == [IndexedManifest(path).record(k) for k in range(7)]
    assert len(few) == 7


def test_every_mode_is_planned(path, args):
    plan.save_weights(path)
    for mode in plan.MODES.values():
        alone, shared = plan.measure_mode(path, mode, args)
        assert alone.planned == alone.own == NUM_CUTS
        assert 0 < shared.own <= NUM_CUTS / 2 and shared.epoch_s > 0


def test_index_measurements(path, args):
    measured = build(path)
    assert measured.seconds > 0 and measured.size_mib > 0
    opening = open_and_use(path)
    assert 0 < opening.seconds < 5 and opening.record_us > 0
    assert opening.all_columns.private < 20 and opening.worker.written < 5
    options = plan.plan_options(plan.MODES["buckets, by duration"], args)
    resumed = resume(path, options, 2, 3)
    assert resumed.digest == digest_of_part(path, options, 2, 3) != digest_of_part(path, options, 2, 4)
    assert rest_is_complete(path, options, 2, 3)


def test_memory_is_that_of_fresh_and_forked_processes():
    before = processes.read_memory()
    # Memory of its own: numpy may be given what was used before.
    block = np.frombuffer(mmap.mmap(-1, 30 << 20), np.uint8)
    block += 1
    grown = processes.read_memory().since(before)
    assert 25 < grown.written < 40 and 25 < grown.private < 40 and grown.private <= grown.resident
    assert processes.in_forked_process(processes.read_memory).private < before.private + 30
    assert block.all()


def test_lhotse_is_measured_on_the_same_cuts(path):
    eager = lhotsecuts.load_eagerly(path)
    assert eager.num_cuts == NUM_CUTS and eager.us_per_cut > 0
    assert lhotsecuts.sample(path, 2, 100.0, 3) > 0


def test_help_needs_no_part():
    done = command("--help")
    assert done.returncode == 0 and "plan" in done.stdout and "loader" in done.stdout
    done = command("plan", "--help")
    assert done.returncode == 0
    for option in ("--cuts", "--folder", "--world-sizes", "--lhotse", "--num-buckets", "--verbose"):
        assert option in done.stdout


@pytest.mark.slow
def test_the_command_prints_tables(tmp_path):
    arguments = ["--cuts", "300", "--folder", str(tmp_path), "--world-sizes", "1", "2", "--processes", "2"]
    done = command("plan", *arguments)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    tables = [[row for row in rows if len(row) == width] for width in (3, 6)]
    assert sum(map(len, tables)) == len(rows)
    assert len(tables[1]) == 2 + len(plan.MODES)
    assert sum(row[1] == "yes" for row in tables[0]) == 2
