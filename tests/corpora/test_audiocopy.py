"""Stage 1's copies at 16 kHz: what they hold, when they are made, and what is left when it goes wrong."""

from __future__ import annotations

import json
import resource
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.configcorpus import Preparation
from audiotag.corpora.preparation import Listed, Part, prepare_splits
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from audiotag.errors import StorageError
from audiotag.labels import Label, LabelTable

TABLE = LabelTable([Label(0, "/m/a", "a")])
STEP = 1 / 32768
HIGH_HZ = 11000
MINUS_60_DB = 10 ** (-60 / 20)


def prepare(root, listed, *, num_jobs=1, **settings):
    """Run stage 1 on (split, id, path, part) and return the cuts by id."""
    rows = {"train": [], "eval": []}
    for split, clip_id, path, part in listed:
        rows[split].append(Listed(clip_id, str(path), (0,), part))
    settings = Preparation(**{"valid_share": 0.0, "audio_copy": "flac", **settings})
    prepare_splits(root / "data" / "manifests", rows, TABLE, settings, num_jobs=num_jobs)
    cuts = {}
    for split in rows:
        manifest = IndexedManifest(root / "data" / "manifests" / f"cuts_{split}.jsonl")
        cuts |= {manifest.id(i): manifest.record(i) for i in range(len(manifest))}
    return cuts


def source_of(cut):
    return Path(cut["recording"]["sources"][0]["source"])


def copies(root):
    return sorted(path for path in (root / "data" / "audio").rglob("*") if path.suffix in (".flac", ".wav"))


def noise(path, seconds=0.5, rate=16000, channels=1, level=0.1, **options):
    rng = np.random.default_rng(list(path.name.encode()))
    soundfile.write(path, level * rng.standard_normal((round(seconds * rate), channels)), rate, **options)
    return path


@pytest.fixture
def corpus(tmp_path):
    """Clips of several rates, channels and formats, parts, and one that exceeds full scale."""
    whole = Part()
    long = noise(tmp_path / "long.flac", seconds=3.0, rate=44100, channels=2)
    return [
        ("train", "plain", noise(tmp_path / "plain.wav"), whole),
        ("train", "-_cd-rate", noise(tmp_path / "cd.wav", rate=44100, channels=2, subtype="PCM_24"), whole),
        ("train", "folder/phone \u266b", noise(tmp_path / "phone.wav", rate=8000, subtype="ULAW"), whole),
        ("train", "part", long, Part(0.5, 1.25)),
        ("train", "end", long, Part(2.5)),
        ("train", "float", noise(tmp_path / "float.wav", rate=48000, subtype="DOUBLE"), whole),
        ("eval", "loud", noise(tmp_path / "loud.wav", rate=32000, level=0.7, subtype="FLOAT"), whole),
        ("eval", "five", noise(tmp_path / "five.wav", rate=22050, channels=5), whole),
    ]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_training_on_copies_is_training_on_originals(tmp_path, corpus, num_jobs):
    originals = prepare(tmp_path, corpus, audio_copy="none")
    cuts = prepare(tmp_path, corpus, num_jobs=num_jobs)
    assert list(cuts) == list(originals)
    for clip_id, cut in cuts.items():
        source = source_of(cut)
        info = soundfile.info(source)
        assert source.is_absolute() and source.is_relative_to(tmp_path / "data" / "audio")
        assert (info.samplerate, info.channels) == (16000, 1)
        assert cut["type"] == "MonoCut" and cut["start"] == 0.0 and cut["duration"] == info.frames / 16000
        samples, expected = load_audio(cut), load_audio(originals[clip_id])
        assert samples.shape == expected.shape
        if clip_id == "loud":
            assert (source.suffix, info.subtype) == (".wav", "FLOAT") and np.abs(samples).max() > 1.5
            np.testing.assert_array_equal(samples, expected)
        else:
            assert (source.suffix, info.subtype) == (".flac", "PCM_16")
            np.testing.assert_allclose(samples, expected, atol=0.5 * STEP + 1e-7)
        assert cut["supervisions"] == [
            {**originals[clip_id]["supervisions"][0], "channel": 0, "duration": cut["duration"]}
        ]
    np.testing.assert_array_equal(load_audio(cuts["plain"]), load_audio(originals["plain"]))
    assert len(copies(tmp_path)) == len(corpus)


def test_what_is_measured_is_the_original(tmp_path, corpus):
    prepare(tmp_path, corpus, audio_copy="none")
    path = tmp_path / "data" / "manifests" / "coverage.json"
    before = json.loads(path.read_text())
    prepare(tmp_path, corpus)
    after = json.loads(path.read_text())
    for split in ("train", "eval"):
        assert after[split]["loudness_dbfs"] == before[split]["loudness_dbfs"]
        assert after[split]["seconds"] == pytest.approx(before[split]["seconds"], abs=1e-3)


def test_copies_are_made_once(tmp_path, corpus):
    cuts = prepare(tmp_path, corpus)
    before = {path: path.stat().st_mtime_ns for path in copies(tmp_path)}
    # Another hold-out moves clips between splits, which is no reason to copy them again.
    assert prepare(tmp_path, corpus, valid_share=0.3).keys() < cuts.keys()
    assert {path: path.stat().st_mtime_ns for path in copies(tmp_path)} == before
    gone, damaged, changed = (source_of(cuts[clip_id]) for clip_id in ("part", "five", "plain"))
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    soundfile.write(tmp_path / "plain.wav", 0.1 * np.random.default_rng(1).standard_normal(9000), 16000)
    again = prepare(tmp_path, corpus)
    after = {path: path.stat().st_mtime_ns for path in copies(tmp_path)}
    assert source_of(again["plain"]) != changed and not changed.exists()
    assert len(load_audio(again["plain"])) == 9000 and len(load_audio(again["five"])) == 8000
    remade = {path for path in after if after[path] != before.get(path)}
    assert remade == {gone, damaged, source_of(again["plain"])}


def test_the_list_of_copies_may_be_damaged(tmp_path, corpus):
    """What it says is checked, and what it no longer says is found in the folder."""
    cuts = prepare(tmp_path, corpus)
    path = tmp_path / "data" / "audio" / "copies.jsonl"
    before = {copy: copy.stat().st_mtime_ns for copy in copies(tmp_path)}
    content = path.read_bytes()
    for damaged in (
        content.replace(b"8000", b"8001"),
        content[: len(content) // 2],
        content[::-1],
        b"",
        content + bytes(50),
    ):
        path.write_bytes(damaged)
        assert prepare(tmp_path, corpus) == cuts
    path.unlink()
    assert prepare(tmp_path, corpus) == cuts
    assert {copy: copy.stat().st_mtime_ns for copy in copies(tmp_path)} == before


def test_copies_that_no_clip_needs_are_removed(tmp_path, corpus):
    cuts = prepare(tmp_path, corpus)
    audio = tmp_path / "data" / "audio"
    shard = source_of(cuts["part"]).parent
    half = shard / f".{source_of(cuts['part']).name}.1f23a.tmp"
    foreign = [audio / "my.flac", shard / "my.flac", shard / "notes-0123456789abcdef.flac"]
    for path in (half, *foreign):
        path.touch()
    kept = prepare(tmp_path, [clip for clip in corpus if clip[1] != "part"])
    assert set(copies(tmp_path)) == {*map(source_of, kept.values()), *foreign}
    assert not half.exists()
    names = {json.loads(line)[1] for line in (audio / "copies.jsonl").read_text().splitlines()}
    assert names == {str(source_of(cut).relative_to(audio)) for cut in kept.values()}
    prepare(tmp_path, corpus, audio_copy="none")
    assert set(copies(tmp_path)) == set(foreign)
    assert sorted(path for path in audio.iterdir() if path.is_dir()) == [shard]
    for path in foreign:
        path.unlink()
    shard.rmdir()
    prepare(tmp_path, corpus)
    prepare(tmp_path, corpus, audio_copy="none")
    assert not audio.exists()


def apart(function, *arguments):
    """Start a function in a process of its own, which can be limited and killed."""
    process = get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def prepare_on_a_small_disk(root, listed, num_jobs, limit_bytes):
    sys.dont_write_bytecode = True  # the limit would cut off those files too
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    try:
        prepare(root, listed, num_jobs=num_jobs)
    except StorageError as error:
        (root / "error.txt").write_text(str(error))


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_full_disk(tmp_path, num_jobs):
    listed = [("train", f"clip-{number}", noise(tmp_path / f"{number}.wav"), Part()) for number in range(20)]
    listed.append(("eval", "long", noise(tmp_path / "long.wav", seconds=5.0), Part()))
    apart(prepare_on_a_small_disk, tmp_path, listed, num_jobs, 60_000).join(60)
    message = (tmp_path / "error.txt").read_text()
    assert message.startswith(f"clip long: File too large while writing {tmp_path}/data/audio/")
    assert message.endswith("free some space and run the same command again; finished copies are kept")
    before = {path: path.stat().st_mtime_ns for path in copies(tmp_path)}
    assert len(before) >= 16 and not list((tmp_path / "data" / "audio").rglob("*.tmp"))
    assert not (tmp_path / "data" / "manifests" / "cuts_train.jsonl").exists()
    prepare(tmp_path, listed, num_jobs=num_jobs)
    after = {path: path.stat().st_mtime_ns for path in copies(tmp_path)}
    assert len(after) == 21
    assert before.items() <= after.items()


def test_a_killed_copy_leaves_no_half_file_and_goes_on(tmp_path):
    listed = [("train", f"clip-{i}", noise(tmp_path / f"{i}.wav", 5.0, 44100), Part()) for i in range(40)]
    listed.append(("eval", "eval", noise(tmp_path / "eval.wav"), Part()))
    process = apart(prepare, tmp_path, listed)
    deadline = time.monotonic() + 60
    while len(copies(tmp_path)) < 5 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    done = {path: path.stat().st_mtime_ns for path in copies(tmp_path)}
    assert 5 <= len(done) < 40
    assert all(soundfile.info(path).frames == 80000 for path in done)
    cuts = prepare(tmp_path, listed)
    assert {len(load_audio(cut)) for cut in cuts.values()} == {8000, 80000}
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    assert len(copies(tmp_path)) == 41


def tone(frequency, rate, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def level_at(samples, frequency):
    """Amplitude of a sine in the middle of some samples at 16 kHz."""
    middle = samples[2000:-2000]
    wave = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / 16000)
    window = np.hanning(len(middle))
    return 2 * abs((middle * wave * window).sum()) / window.sum()


@pytest.mark.parametrize("audio_copy", ["none", "flac"])
@pytest.mark.parametrize("rate", [44100, 48000, 32000])
def test_a_tone_above_the_new_nyquist_frequency_vanishes(tmp_path, audio_copy, rate):
    """Taking every third sample would fold it to a tone below, as loud as before."""
    high = tone(HIGH_HZ, rate)
    soundfile.write(tmp_path / "both.wav", high + tone(1000, rate, level=0.25), rate)
    soundfile.write(tmp_path / "high.wav", high, rate)
    listed = [(s, s, tmp_path / f"{name}.wav", Part()) for s, name in (("train", "both"), ("eval", "high"))]
    cuts = prepare(tmp_path, listed, audio_copy=audio_copy)
    both, high = load_audio(cuts["train"]), load_audio(cuts["eval"])
    assert level_at(both, 1000) == pytest.approx(0.25, rel=0.01)
    assert level_at(both, 16000 - HIGH_HZ) < 0.5 * MINUS_60_DB
    assert np.abs(high[2000:-2000]).max() < 0.5 * MINUS_60_DB


@pytest.mark.parametrize("audio_copy", ["none", "flac"])
def test_float_and_integer_files_of_a_tone_are_the_same(tmp_path, audio_copy):
    steps = np.round(tone(440, 44100) * 32768) / 32768
    listed = []
    for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        path = tmp_path / f"{subtype}.wav"
        soundfile.write(path, steps, 44100, subtype=subtype)
        listed.append(("train", subtype, path, Part()))
    listed.append(("eval", "eval", noise(tmp_path / "eval.wav"), Part()))
    cuts = prepare(tmp_path, listed, audio_copy=audio_copy, duplicates="keep")
    first = load_audio(cuts["PCM_16"])
    assert level_at(first, 440) == pytest.approx(0.5, rel=0.01)
    for clip_id, cut in cuts.items():
        if clip_id != "eval":
            np.testing.assert_array_equal(load_audio(cut), first)
