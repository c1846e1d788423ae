"""Which windows a long clip has, what is read for them, and which process scores them in which batch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soundfile

from audiotag.config import Config
from audiotag.corpora.features import extract_features
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.errors import ConfigError
from audiotag.evaluation.windows import WindowDataset, Windowing, plan_windows, window_loader
from audiotag.frontend import Frontend
from tests.data_pipeline.manifests import record, write_manifest

HOPS = (1.0, 0.5, 0.3)
# 8 samples more than 1.5 s are too few for a window: the last one still ends with them.
DURATIONS = (0.4, 1.0, 1.3, 1.5, 1.5005, 2.0, 2.75, 3.5, 7.01)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of a rising line, whose samples tell where they come from, and of noise with stored features."""
    folder = tmp_path_factory.mktemp("clips")
    records, noise = [], []
    for number, duration in enumerate(DURATIONS):
        num_samples = round(duration * 16000)
        path = folder / f"line{number}.wav"
        soundfile.write(path, np.arange(num_samples) / 2**20, 16000, subtype="FLOAT")
        records.append(record(f"line{number}", num_samples / 16000, "1", str(path)))
        path = folder / f"noise{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(num_samples), 16000)
        noise.append(record(f"noise{number}", num_samples / 16000, "1", str(path)))
    plain = IndexedManifest(write_manifest(folder / "cuts.jsonl", records))
    noise = IndexedManifest(write_manifest(folder / "noise.jsonl", noise))
    extract_features(noise, folder / "fbank" / "cuts_eval.jsonl", preset="ast128")
    return plain, IndexedManifest(folder / "fbank" / "cuts_eval.jsonl")


def windows_of(manifest, position, windowing, storage="on_the_fly"):
    """All windows of a clip."""
    dataset = WindowDataset(manifest, windowing, storage=storage, num_classes=2)
    count = int(windowing.counts(manifest.durations)[position])
    return [dataset.read_window(position, number, count) for number in range(count)]


@pytest.mark.parametrize("hop_s", HOPS)
@pytest.mark.parametrize("position", range(len(DURATIONS)))
def test_windows_cover_a_clip_from_its_first_sample_to_its_last(clips, position, hop_s):
    whole = load_audio(clips[0].record(position))
    windows = windows_of(clips[0], position, Windowing(1.0, hop_s, "sigmoid"))
    if len(whole) <= 16000:
        [only] = windows
        np.testing.assert_array_equal(only, whole)
        return
    starts = [round(float(window[0]) * 2**20) for window in windows]
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window, whole[start : start + 16000])
        assert len(window) == 16000
    assert starts[:-1] == [round(number * hop_s * 16000) for number in range(len(windows) - 1)]
    assert starts[-1] == len(whole) - 16000
    # None is there twice, and none but the last reaches the end.
    assert 0 < starts[-1] - starts[-2] <= round(hop_s * 16000) + 8


@pytest.mark.parametrize("hop_s", HOPS)
@pytest.mark.parametrize("position", range(len(DURATIONS)))
def test_windows_of_stored_features_are_those_of_the_sound(clips, position, hop_s):
    whole = load_features(clips[1].record(position))
    windows = windows_of(clips[1], position, Windowing(1.0, hop_s, "sigmoid"), "stored")
    assert len(windows) == len(windows_of(clips[0], position, Windowing(1.0, hop_s, "sigmoid")))
    if DURATIONS[position] <= 1.0:
        np.testing.assert_array_equal(windows[0], whole)
        return
    num_frames = Frontend("ast128").num_frames(16000)
    starts = [round(number * hop_s * 100) for number in range(len(windows) - 1)] + [len(whole) - num_frames]
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window, whole[start : start + num_frames])


def test_a_window_is_what_a_cut_of_that_stretch_would_be(tmp_path):
    """At another rate and with a cut that begins inside of its file: read, then resampled, as if alone."""
    path = tmp_path / "a.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(1).standard_normal(4 * 44100), 44100)
    cut = {**record("a", 4.0, "1", str(path), rate=44100), "start": 0.5, "duration": 3.2}
    manifest = IndexedManifest(write_manifest(tmp_path / "cuts.jsonl", [cut]))
    first, second, last = windows_of(manifest, 0, Windowing(1.5, 1.25, "sigmoid"))
    for window, start in ((first, 0.5), (second, 1.75), (last, 0.5 + 3.2 - 1.5)):
        np.testing.assert_array_equal(window, load_audio({**cut, "start": start, "duration": 1.5}))


def test_a_clip_that_just_holds_its_windows_has_no_further_one():
    """Durations are of 32 bits: those of a day are off by milliseconds."""
    for window_s, hop_s in ((10.0, 10.0), (10.0, 5.0), (0.3, 0.1), (1.1, 0.7)):
        for count in (1, 2, 3, 7, 100, 3600, 8640):
            exact = window_s + (count - 1) * hop_s
            durations = np.array([exact, exact + 0.1 * hop_s], dtype=np.float32)
            assert Windowing(window_s, hop_s, "max").counts(durations).tolist() == [count, count + 1]


@pytest.mark.parametrize(("storage", "minutes"), [("on_the_fly", 30), ("stored", 4)])
def test_the_length_of_a_clip_does_not_matter_to_the_memory(tmp_path, storage, minutes):
    """Whole, the samples would take 115 MB, and the features 12 MB."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(minutes):
            file.write(np.zeros(60 * 8000))
    manifest = IndexedManifest(
        write_manifest(tmp_path / "cuts.jsonl", [record("a", 60.0 * minutes, "1", str(path), rate=8000)])
    )
    if storage == "stored":
        extract_features(manifest, tmp_path / "fbank" / "cuts_eval.jsonl", preset="ast128")
        manifest = IndexedManifest(tmp_path / "fbank" / "cuts_eval.jsonl")
    loader = window_loader(
        manifest,
        Windowing(10.0, 10.0, "sigmoid"),
        batch_size=2,
        world_size=1,
        rank=0,
        storage=storage,
        num_classes=2,
        num_workers=0,
    )
    tracemalloc.start()
    windows = sum(len(batch["ids"]) for batch in loader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert windows == 6 * minutes
    assert peak < 5e6


def test_batches_hold_what_scoring_needs(clips):
    plain = clips[0]
    windowing = Windowing(1.0, 0.5, "sigmoid")
    counts = windowing.counts(plain.durations)
    options = {"storage": "on_the_fly", "num_classes": 2, "num_workers": 1}
    loader = window_loader(plain, windowing, batch_size=3, world_size=1, rank=0, **options)
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        positions = batch["positions"].tolist()
        assert batch["ids"] == [plain.id(position) for position in positions]
        assert batch["windows"].tolist() == counts[positions].tolist()
        assert batch["labels"].tolist() == [[0.0, 1.0]] * len(positions)
        assert batch["window_mean"] == "sigmoid"
        assert len(positions) <= 3
    assert [batch["ids"] for batch in loader] == [batch["ids"] for batch in batches]


@pytest.mark.parametrize("seed", range(12))
def test_every_window_is_in_one_batch_of_one_process(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, (2, 4, 40)[seed % 3], size=rng.integers(1, 60))
    counts[rng.integers(len(counts))] = rng.integers(1, 300)
    batch_size = int(rng.integers(1, 17))
    expected = [(clip, number, count) for clip, count in enumerate(counts) for number in range(count)]
    alone = plan_windows(counts, batch_size)
    assert [tuple(row) for batch in alone for row in batch.tolist()] == expected
    for world_size in (2, 3, 5):
        shares = [plan_windows(counts, batch_size, world_size, rank) for rank in range(world_size)]
        # The same batches, whoever has them: so the numbers come out the same.
        dealt = sorted(batch.tolist() for share in shares for batch in share)
        assert dealt == sorted(batch.tolist() for batch in alone)
        owners = [{row[0] for batch in share for row in batch.tolist()} for share in shares]
        assert sum(map(len, owners)) == len(counts)
        for share in shares:
            rows = [row for batch in share for row in batch.tolist()]
            assert rows == sorted(rows)
            assert all(1 <= len(batch) <= batch_size for batch in share)
        loads = [sum(map(len, share)) for share in shares]
        assert max(loads) <= counts.sum() / world_size + max(batch_size, counts.max())


def test_clips_without_further_windows_are_batched_as_ever():
    for world_size, rank in ((1, 0), (2, 0), (2, 1), (3, 2)):
        plan = BatchPlan(
            np.ones(23), seed=1, batch_size=4, world_size=world_size, rank=rank, training=False
        ).batches(0)
        windows = plan_windows(np.ones(23, dtype=np.int64), 4, world_size, rank)
        assert [batch[:, 0].tolist() for batch in windows] == [batch.tolist() for batch in plan]


def test_a_long_clip_is_made_up_for_by_many_short_ones():
    counts = np.array([5, 90, *[1] * 80, 5])
    loads = [sum(map(len, plan_windows(counts, 10, 2, rank))) for rank in (0, 1)]
    assert loads == [90, 90]


def test_more_processes_than_there_is_to_do():
    assert plan_windows(np.array([3]), 2, world_size=4, rank=3) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"hop_s": 1.0}, "hop_s is set, but window_s, the length of the windows, is not"),
        ({"window_s": 1.0, "hop_s": 1.5}, "hop_s 1.5 is more than window_s 1: sound between windows"),
    ],
)
def test_windows_that_leave_sound_out_are_refused(section, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        Config.model_validate({"evaluation": section})
