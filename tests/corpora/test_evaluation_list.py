"""The official evaluation list in size and shape: 20,371 rows, of which 2,998 ids contain '_'."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from audiotag.corpora.audiofiles import find_audio, match_stem
from audiotag.corpora.segments import read_segments
from audiotag.corpora.synthetic import ID_ALPHABET

NUM_ROWS, NUM_UNDERSCORED = 20371, 2998
LAYOUTS = [
    "{id}.wav",
    "Y{id}.wav",
    "{id}_{start_s}_{end_s}.wav",
    "{id}_{start_s:.3f}_{end_s:.3f}.wav",
    "{id}_{start_ms}.flac",
    "{id}_{start_ms}_{end_ms}.flac",
    "Y{id}_{start_s}_{end_s}.mp3",
    "{id}_{start_s:06d}.opus",
    "{shard}/{id}.m4a",
    "{shard}/deeper/Y{id}_{start_ms}.OGG",
]


def make_ids() -> list[str]:
    """Ids like YouTube's; among them whatever has misled somebody who cut names at '_'."""
    rng = np.random.default_rng(0)
    letters = np.array(list(ID_ALPHABET.replace("_", "")))
    plain = {"".join(row) for row in letters[rng.integers(len(letters), size=(40000, 11))]}
    awkward = {
        *(f"{i:05d}_30_40" for i in range(300)),  # begins and ends like <name>_<start>_<end>
        *(f"a{i:04d}_30000" for i in range(300)),
        *(f"_{i:04d}_-{i:04d}" for i in range(300)),
        *(f"-_{i:08d}_" for i in range(300)),
        *(f"Y{i:04d}_{i:05d}" for i in range(300)),
        *(f"__{i:04d}.{i:04d}" for i in range(300)),
    }
    marked = (f"{clip_id[:5]}_{clip_id[6:]}" for clip_id in sorted(plain))
    while len(awkward) < NUM_UNDERSCORED:
        awkward.add(next(marked))
    others = {"abcdefghijk", "ABCDEFGHIJK", "aBcDeFgHiJk", "-----------", "--aaaaaaaaa", "YYYYYYYYYYY"}
    for clip_id in sorted(plain, key=lambda clip_id: (clip_id[0] not in "-Y", clip_id)):
        others.add(clip_id)
        if len(others) + len(awkward) == NUM_ROWS:
            break
    ids = sorted(awkward | others)
    rng.shuffle(ids)
    return ids


@pytest.fixture(scope="module")
def rows():
    """The list as (id, start in seconds, MIDs)."""
    ids = make_ids()
    assert len(set(ids)) == NUM_ROWS and all(len(clip_id) == 11 for clip_id in ids)
    assert sum("_" in clip_id for clip_id in ids) == NUM_UNDERSCORED
    assert len({clip_id.lower() for clip_id in ids}) < NUM_ROWS
    return [
        (clip_id, 10 * (i % 50), [f"/m/0{label:03d}_{i % 7}" for label in range(1 + i % 4)])
        for i, clip_id in enumerate(ids)
    ]


@pytest.fixture(scope="module")
def segments(rows, tmp_path_factory):
    """The same in the official layout, read again."""
    path = tmp_path_factory.mktemp("lists") / "eval_segments.csv"
    lines = [
        "# Segments csv created Sun Mar  5 10:54:25 2017",
        f"# num_ytids={NUM_ROWS}, num_segs={NUM_ROWS}, num_unique_labels=527, num_positive_labels=51804",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    lines += [
        f'{clip_id}, {start}.000, {start + 10}.000, "{",".join(mids)}"' for clip_id, start, mids in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return list(read_segments(path))


def name_of(layout, clip_id, start_s):
    return layout.format(
        id=clip_id,
        shard=f"{ord(clip_id[0]):02x}",
        start_s=start_s,
        end_s=start_s + 10,
        start_ms=1000 * start_s,
        end_ms=1000 * start_s + 10000,
    )


def test_no_row_is_lost_or_changed(rows, segments):
    assert [(s.id, s.start_s, list(s.mids)) for s in segments] == rows
    assert all(segment.end_s == segment.start_s + 10 for segment in segments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_means_its_own_id(segments, layout):
    starts = {segment.id: segment.start_s for segment in segments}
    for segment in segments:
        stem = name_of(layout, segment.id, int(segment.start_s)).rpartition("/")[2].rpartition(".")[0]
        assert [clip_id for clip_id, _ in match_stem(stem, starts)] == [segment.id], stem


def test_every_file_is_found_among_all_layouts(segments, tmp_path):
    expected = {}
    for number, segment in enumerate(segments):
        name = name_of(LAYOUTS[number % len(LAYOUTS)], segment.id, int(segment.start_s))
        expected[segment.id] = str(tmp_path / name)
    for folder in {path.rpartition("/")[0] for path in expected.values()}:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for path in expected.values():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    # Other stretches of the same videos, and strangers, are nobody's files.
    for segment in segments[:500]:
        (tmp_path / f"{segment.id}_{int(segment.start_s) + 500}.wav").touch()
        (tmp_path / f"x{segment.id}.wav").touch()
    assert find_audio(tmp_path, segments) == expected
