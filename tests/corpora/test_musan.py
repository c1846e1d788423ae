from __future__ import annotations

import csv
import os

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from audiotag.corpora.musan import prepare_musan
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import load_audio, load_features
from audiotag.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def musan(tmp_path_factory):
    """MUSAN's layout: music, speech and noise with sub-folders; one file is damaged, one is text."""
    root = tmp_path_factory.mktemp("musan")
    rng = np.random.default_rng(0)
    for name, seconds, rate in (
        ("music/fma/music-fma-0000", 25.5, 16000),
        ("music/jamendo/music-jamendo-0000", 16.0, 44100),
        ("speech/librivox/speech-librivox-0000", 10.0, 16000),
        ("noise/free-sound/noise-free-sound-0000", 5.0, 16000),
        ("noise/free-sound/noise-free-sound-0001", 5.5, 8000),
        ("noise/sound-bible/noise-sound-bible-0000", 12.0, 16000),
    ):
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * rate)), rate)
    os.truncate(root / "noise/sound-bible/noise-sound-bible-0000.wav", 5000)
    (root / "noise" / "free-sound" / "ANNOTATIONS").write_text("noise-free-sound-0000 noise\n")
    return root


WINDOWS = [
    ("music/fma/music-fma-0000.wav-0", 10.0),
    ("music/fma/music-fma-0000.wav-1", 10.0),
    ("music/fma/music-fma-0000.wav-2", 5.5),
    ("music/jamendo/music-jamendo-0000.wav-0", 10.0),
    ("music/jamendo/music-jamendo-0000.wav-1", 6.0),
    ("noise/free-sound/noise-free-sound-0001.wav-0", 5.5),
    ("speech/librivox/speech-librivox-0000.wav-0", 10.0),
]


@pytest.mark.parametrize("storage", ["on_the_fly", "stored"])
def test_windows(musan, tmp_path, storage):
    prepare_musan(tmp_path, dir=str(musan), preset="icefall80", storage=storage)
    path = tmp_path / "noise" / "icefall80" / "cuts_noise.jsonl"
    manifest = IndexedManifest(path)
    assert [(manifest.id(i), pytest.approx(manifest.durations[i])) for i in range(len(manifest))] == WINDOWS
    assert len(list(CutSet.from_jsonl_lazy(path))) == 7
    for index, (_, seconds) in enumerate(WINDOWS):
        assert len(load_audio(manifest.record(index))) == pytest.approx(16000 * seconds, abs=1)
        if storage == "stored":
            assert load_features(manifest.record(index)).shape == (round(100 * seconds), 80)
    whole, _ = soundfile.read(musan / "music/fma/music-fma-0000.wav", dtype="float32")
    np.testing.assert_array_equal(load_audio(manifest.record(1)), whole[160000:320000])
    with (tmp_path / "noise" / "skipped_noise.csv").open(newline="") as file:
        [skipped] = csv.DictReader(file)
    assert skipped["id"] == "noise-sound-bible-0000" and skipped["reason"].startswith("truncated")


def test_what_is_no_noise_corpus(tmp_path):
    def prepare(dir):
        prepare_musan(tmp_path / "data", dir=dir, preset="ast128", storage="on_the_fly")

    with pytest.raises(ConfigError, match=r"augment\.noise\.dir is not set"):
        prepare(None)
    with pytest.raises(DataError, match="none of the folders music, speech, noise"):
        prepare(str(tmp_path))
    (tmp_path / "noise").mkdir()
    with pytest.raises(DataError, match="no audio files in noise"):
        prepare(str(tmp_path))
    soundfile.write(
        tmp_path / "noise" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(80000), 16000
    )
    with pytest.raises(DataError, match="each must be longer than 5 s"):
        prepare(str(tmp_path))
