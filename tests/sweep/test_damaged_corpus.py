"""A corpus of damaged files through stage 1: each clip is used, or listed with its reason."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from audiotag.configcorpus import AudioSetCorpus
from audiotag.corpora.audioset import prepare_audioset
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio
from tests.sweep.guard import guarded
from tests.sweep.preparing import prepared
from tests.sweep.sounddamage import DAMAGES
from tests.sweep.sounds import SOUNDS

USED = ("pcm16.wav", "float.wav", "rf64.wav", "flac16.flac", "vorbis-stereo.ogg", "opus.opus", "layer3.mp3")
NUM_GOOD = 5


@pytest.fixture(scope="module")
def corpus(module_folder):
    """Its folder and ids: damaged files, some good ones, and some that are no files."""
    folder = module_folder
    audio = folder / "corpus" / "audio"
    audio.mkdir(parents=True)
    ids = []
    for sound in (sound for sound in SOUNDS if sound.name in USED):
        good = sound.write(folder / sound.name)
        for number, damaging in enumerate(DAMAGES.values()):
            ids.append(f"_{sound.name.partition('.')[0]}_{number}")
            (audio / f"{ids[-1]}.{sound.extension}").write_bytes(damaging(good))
    for number in range(NUM_GOOD):
        ids.append(f"-good_{number}")
        SOUNDS[number].write(audio / f"{ids[-1]}.wav")
    os.mkfifo(audio / "-fifo.wav")
    (audio / "-folder.wav").mkdir()
    (audio / "-nothing.wav").symlink_to("gone.wav")
    (audio / "-itself.wav").symlink_to("-itself.wav")
    (audio / "-circle").symlink_to(audio)
    ids += ["-fifo", "-folder", "-nothing", "-itself", "-gone"]
    SOUNDS[0].write(audio / "eval.wav")
    rows = "".join(f'{clip_id}, 0.000, 10.000, "/m/1"\n' for clip_id in ids)
    (folder / "corpus" / "train.csv").write_text(rows)
    (folder / "corpus" / "eval.csv").write_text('eval, 0.000, 10.000, "/m/1"\n')
    (folder / "corpus" / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/1,"One"\n')
    return folder, ids


def settings_of(folder: Path, max_skip: float) -> AudioSetCorpus:
    """The configuration's section."""
    return AudioSetCorpus(
        dir=str(folder / "corpus"),
        train_lists=["train.csv"],
        eval_lists=["eval.csv"],
        valid_share=0.0,
        max_skip=max_skip,
    )


def test_each_clip_is_used_or_listed(corpus):
    folder, ids = corpus
    assert prepared(prepare_audioset, folder, settings_of(folder, max_skip=1.0)) == "done"
    manifests = folder / "manifests"
    with (manifests / "skipped_train.csv").open(newline="", encoding="utf-8") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    manifest = IndexedManifest(manifests / "cuts_train.jsonl")
    used = [manifest.id(position) for position in range(len(manifest))]
    assert sorted([*used, *reasons]) == sorted(ids)
    assert all(reason.partition(":")[0].strip() and reason.isprintable() for reason in reasons.values()), (
        reasons
    )
    assert "-good_1" in used and "-fifo" in reasons
    coverage = json.loads((manifests / "coverage.json").read_text())["train"]
    assert (coverage["listed"], coverage["present"]) == (len(ids), len(used))
    assert sum(coverage["skipped"].values()) == len(reasons)


def test_each_clip_that_is_used_can_be_loaded(corpus):
    folder, _ = corpus
    manifest = IndexedManifest(folder / "manifests" / "cuts_train.jsonl")

    def outcome(position: int) -> str:
        samples = load_audio(manifest.record(position))
        promised = float(manifest.durations[position]) * 16000
        good = len(samples) > 0 and np.isfinite(samples).all() and abs(len(samples) - promised) < 2
        return "" if good else f"{len(samples)} samples of {promised:.1f}"

    results = guarded(outcome, range(len(manifest)))
    failures = {manifest.id(position): why for position, why in results.items() if why}
    assert not failures


def test_too_many_skipped_clips_stop_the_stage(corpus):
    folder, _ = corpus
    why = prepared(prepare_audioset, folder, settings_of(folder, max_skip=0.05))
    assert why.startswith("DataError: train: ") and "skipped_train.csv" in why and len(why) < 2000
