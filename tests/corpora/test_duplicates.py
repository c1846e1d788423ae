from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from audiotag.corpora.duplicates import (
    OVERLAP_TOLERANCE_S,
    Parts,
    SoundIndex,
    recordings_of,
    skip_duplicates,
    skip_leaks,
)
from audiotag.corpora.manifests import Clip, SplitReport
from audiotag.corpora.probe import SILENT, Probe


def clip_of(clip_id, sound, part=None, part_sound=None, file_s=100, problem=None):
    """A clip of a file with this sound, or of a part of it."""
    probe = Probe(file_s, 1, 1, problem, sound=sound)
    if part is None:
        return Clip(clip_id, f"{sound}.wav", probe, ())
    start, end = part
    content = Probe(round(end - start), 1, 1, problem, sound=part_sound or f"{sound}-{start}-{end}")
    return Clip(clip_id, f"{sound}.wav", probe, (), start, end - start, content)


times = st.integers(0, 40)
stretches = st.lists(st.tuples(times, st.integers(1, 15)), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stretches, times, st.integers(1, 15))
def test_overlaps_are_found(of_file, start, length):
    parts = [(float(a), float(a + n), f"{a}-{a + n}") for a, n in of_file]
    overlapping = {name for a, b, name in parts if min(b, start + length) - max(a, start) > 0}
    found = Parts(parts).find_overlap(float(start), float(start + length))
    assert found in overlapping if overlapping else found is None


def test_neighbours_do_not_overlap_by_rounding():
    index = SoundIndex([clip_of("a", "x", (0.0, 3.3334))])
    assert index.find(clip_of("b", "x", (3.3333, 6.0))) is None
    assert index.find(clip_of("b", "x", (3.3333 - 2 * OVERLAP_TOLERANCE_S, 6.0))) == "a"


clips = st.lists(
    st.tuples(st.sampled_from("xyz"), st.none() | st.tuples(times, st.integers(1, 15))), max_size=14
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(clips, clips, clips)
def test_no_sound_stays_in_two_splits(of_train, of_valid, of_eval):
    reports, listed = {}, {"train": of_train, "valid": of_valid, "eval": of_eval}
    for split, rows in listed.items():
        reports[split] = SplitReport(split)
        for number, (sound, part) in enumerate(rows):
            part = part and (float(part[0]), float(part[0] + part[1]))
            reports[split].clips.append(clip_of(f"{split}-{number}", sound, part))
    skip_leaks(reports)
    for one, other in itertools.combinations(reports, 2):
        for a, b in itertools.product(reports[one].clips, reports[other].clips):
            assert not is_same(a, b)
    assert len(reports["eval"].clips) == len(of_eval)
    # Whatever was taken out had its reason.
    for split, others in (("valid", ["eval"]), ("train", ["eval", "valid"])):
        for skipped in reports[split].skipped:
            _, sound, part = next(c for c in named(split, listed) if c[0] == skipped.id)
            clip = clip_of(skipped.id, sound, part)
            assert any(is_same(clip, kept) for other in others for kept in reports[other].clips)


def named(split, listed):
    for number, (sound, part) in enumerate(listed[split]):
        yield f"{split}-{number}", sound, part and (float(part[0]), float(part[0] + part[1]))


def is_same(a, b):
    overlap = min(a.start_s + a.duration_s, b.start_s + b.duration_s) - max(a.start_s, b.start_s)
    return a.content.sound == b.content.sound or (a.probe.sound == b.probe.sound and overlap > 0)


def test_silence_is_no_copy_of_silence():
    silent = [clip_of(f"s{i}", "zeros", problem=SILENT) for i in range(3)]
    report = SplitReport("train", list(silent))
    skip_duplicates(report)
    assert report.clips == silent
    reports = {"train": SplitReport("train", silent[:2]), "eval": SplitReport("eval", silent[2:])}
    skip_leaks(reports)
    assert len(reports["train"].clips) == 2
    assert len(set(recordings_of(silent).tolist())) == 3


def test_recordings():
    rows = [
        clip_of("0", "x", (0.0, 1.0)),
        clip_of("1", "y"),
        clip_of("2", "x", (5.0, 6.0)),
        clip_of("3", "z", (2.0, 3.0), part_sound="cut-out"),
        clip_of("4", "cut-out"),
        clip_of("5", "w", (0.0, 1.0), part_sound="cut-out"),
        clip_of("6", "y"),
    ]
    groups = recordings_of(rows)
    of_group = {}
    for clip, group in zip(rows, groups.tolist(), strict=True):
        of_group.setdefault(group, set()).add(clip.id)
    assert sorted(map(sorted, of_group.values())) == [["0", "2"], ["1", "6"], ["3", "4", "5"]]
