"""The comparison with lhotse's data set: both load the same, and the figures say what was measured."""

from __future__ import annotations

import argparse

import pytest
import torch

from audiotag.benchmarks import loader
from audiotag.errors import DataError


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loader.add_arguments(parser)
    return parser.parse_args(words)


def test_the_table_compares_every_kind_of_file(tmp_path):
    threads = torch.get_num_threads()
    short = ("--clips", "5", "--duration-s", "0.5", "--batch-size", "2", "--rounds", "1")
    lines = loader.run(arguments(*short, "--folder", str(tmp_path))).splitlines()
    assert lines[0].startswith("5 clips of 0.5 s, batches of 2, 0 workers, 1 rounds in turn")
    assert [line.split(" | ")[0].strip("| ") for line in lines[4:]] == [
        "waveforms, wav, 16 kHz",
        "waveforms, FLAC, 16 kHz",
        "waveforms, wav, 44.1 kHz stereo",
        "features of wav, 16 kHz",
        "features of FLAC, 16 kHz",
        "features stored, lilcom",
    ]
    for line in lines[4:]:
        ours, theirs, ratio = (float(cell.split()[0]) for cell in line.split(" | ")[1:4])
        assert ours > 0 and theirs > 0 and ratio == pytest.approx(ours / theirs, rel=0.05)
    assert torch.get_num_threads() == threads


def test_different_batches_are_not_timed(tmp_path):
    task = loader.prepare_tasks(tmp_path, 4, 0.5)[0]
    ours = loader.own_batches(task, 2, 0)

    def louder():
        for ids, inputs in ours():
            yield ids, 1.01 * inputs

    def fewer():
        yield from list(ours())[:1]

    loader.check_agreement(task, ours, loader.lhotse_batches(task, 3, 0))
    with pytest.raises(DataError, match=r"waveforms, wav, 16 kHz: clip clip-\d is not the same for lhotse"):
        loader.check_agreement(task, ours, louder)
    with pytest.raises(DataError, match="lhotse loads 2 clips, we 4"):
        loader.check_agreement(task, ours, fewer)
