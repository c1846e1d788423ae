"""From files to one row of logits each: order, windows, losses, failures."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from audiotag.data.loading import load_audio
from audiotag.errors import ConfigError
from audiotag.evaluation.logodds import log_odds
from audiotag.export.package import load_model
from audiotag.prediction.inputs import Input
from audiotag.prediction.predictor import Failure, Prediction, Predictor
from tests.export.models import small_model
from tests.prediction.sounds import noise, tiny_package, write
from tests.sweep.sounds import cut_of, probe_file

# 64 frames of the tiny model are 10,480 samples.
LENGTHS_S = (0.6, 0.03, 0.655, 0.4, 2.0, 0.5, 1.31, 0.03)


@pytest.fixture(scope="module", params=["bce", "ce"])
def model(request, tmp_path_factory):
    return load_model(tiny_package(tmp_path_factory.mktemp("model") / "export", request.param))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rates = (16000, 44100, 8000, 22050)
    paths = [
        write(folder / f"{seed}.flac", seconds, rates[seed % 4], channels=1 + seed % 2, seed=seed)
        for seed, seconds in enumerate(LENGTHS_S)
    ]
    return [Input(str(path), path.name) for path in paths]


def predictor(model, **options):
    return Predictor(model, device=torch.device("cpu"), **options)


def own_logits(model, samples):
    """The logits (C,) of a stretch of sound by itself."""
    with torch.no_grad():
        logits = model.tagger(torch.from_numpy(samples.copy())[None], torch.tensor([len(samples)]))
    return logits.numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_files_come_back_in_their_order_with_the_logits_that_they_have_alone(model, files, batch_size):
    results = list(predictor(model, batch_size=batch_size).predict(files))
    assert [result.input for result in results] == files
    for result, seconds in zip(results, LENGTHS_S, strict=True):
        assert result.duration_s == pytest.approx(seconds, abs=1e-4)
        if seconds <= 0.655:
            logits = own_logits(model, load_audio(cut_of(result.input.path, probe_file(result.input.path))))
            expected = log_odds(logits) if model.loss == "ce" else logits
            np.testing.assert_allclose(result.logits, expected[0], atol=1e-4)
            assert result.num_windows == 1
        else:
            assert result.num_windows > 1
    assert np.ptp([result.logits for result in results], axis=0).min() > 0.05


def test_a_probability_of_a_long_file_is_the_mean_over_its_windows(model, files):
    options = {"window_s": 0.5, "hop_s": 0.2, "keep_windows": True, "batch_size": 3}
    [result] = predictor(model, **options).predict([files[4]])
    assert result.num_windows == len(result.spans) == len(result.window_logits) == 9
    np.testing.assert_allclose(result.spans[:3], [[0.0, 0.5], [0.2, 0.7], [0.4, 0.9]], atol=1e-4)
    np.testing.assert_allclose(result.spans[-1], [1.5, 2.0], atol=1e-4)
    whole = load_audio(cut_of(files[4].path, probe_file(files[4].path)))
    logits = np.concatenate(
        [own_logits(model, whole[round(16000 * start) :][:8000]) for start, _ in result.spans]
    )
    if model.loss == "ce":
        probabilities = torch.from_numpy(logits).softmax(-1).numpy()
    else:
        probabilities = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(1 / (1 + np.exp(-result.window_logits)), probabilities, atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-result.logits)), probabilities.mean(axis=0), atol=1e-4)
    [loudest] = predictor(model, window_mean="max", **options).predict([files[4]])
    if model.loss == "bce":
        np.testing.assert_allclose(loudest.logits, logits.max(axis=0), atol=1e-4)


def test_what_cannot_be_used_does_not_touch_the_others(model, files, tmp_path):
    """Also where a file breaks off after windows that were good, among those of others in one batch."""
    short = write(tmp_path / "short.wav", 0.02)
    broken = tmp_path / "broken.wav"
    samples = noise(32000)
    samples[31000] = np.inf
    soundfile.write(broken, samples, 16000, subtype="FLOAT")
    bad = [Input(str(path), path.name) for path in (short, broken, tmp_path / "gone.wav")]
    mixed = [bad[0], files[0], bad[1], files[4], bad[2]]
    results = list(predictor(model, batch_size=4).predict(mixed))
    assert [type(result) for result in results] == [Failure, Prediction, Failure, Prediction, Failure]
    assert results[0].reason.startswith("too short: 20 ms are less than one frame of features")
    assert results[2].reason == "not finite: samples are NaN or infinite"
    assert results[4].reason == "missing: no such file"
    alone = list(predictor(model).predict([files[0], files[4]]))
    for mixed_in, by_itself in zip((results[1], results[3]), alone, strict=True):
        np.testing.assert_allclose(mixed_in.logits, by_itself.logits, atol=1e-5)


def test_more_files_than_are_sorted_at_a_time(model, files, monkeypatch):
    monkeypatch.setattr("audiotag.prediction.predictor.SORTED_FILES", 3)
    results = list(predictor(model).predict(files))
    assert [result.input for result in results] == files


def test_an_error_of_the_model_reaches_the_caller(model, files, monkeypatch):
    monkeypatch.setattr(model.tagger, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(predictor(model).predict(files))


def test_scores_that_are_not_finite_are_failures(model, files, monkeypatch):
    monkeypatch.setattr(model.tagger, "forward", lambda x, _: torch.full((len(x), 3), torch.nan))
    assert all("not finite" in result.reason for result in predictor(model).predict(files))


def test_windows_that_would_lose_sound_are_refused(model):
    assert predictor(model).window_s == 0.655
    for options, words in (
        ({"window_s": 0.7}, "the model's input is 0.655 s long"),
        ({"window_s": 0.5, "hop_s": 0.6}, "sound between would not be heard"),
        ({"window_s": 0.01}, "too short for one frame"),
    ):
        with pytest.raises(ConfigError, match=words):
            predictor(model, **options)


def test_what_is_said_of_a_file_does_not_depend_on_the_others(files):
    """Also by a Zipformer, which hears padding: only windows of one length share a batch. Files of 30 ms are
    shorter than what it needs."""
    model = small_model("zipformer")
    together = list(predictor(model, batch_size=100, window_s=0.5, hop_s=0.2).predict(files))
    for file, result in zip(files, together, strict=True):
        [alone] = predictor(model, batch_size=1, window_s=0.5, hop_s=0.2).predict([file])
        np.testing.assert_allclose(result.logits, alone.logits, atol=1e-4)


MEASURE = """
import resource, sys, torch
from audiotag.export.package import load_model
from audiotag.prediction.inputs import Input
from audiotag.prediction.predictor import Predictor
predictor = Predictor(load_model(sys.argv[1]), device=torch.device("cpu"), hop_s=0.655)
for path in sys.argv[2:]:
    [result] = predictor.predict([Input(path, path)])
    print(result.num_windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path):
    minute = noise(60 * 1000)
    paths = [tmp_path / "minute.wav", tmp_path / "hour.wav"]
    for path, count in zip(paths, (1, 60), strict=True):
        with soundfile.SoundFile(path, "w", 1000, 1, "PCM_U8") as file:
            for _ in range(count):
                file.write(minute)
    arguments = [tiny_package(tmp_path / "model"), *paths]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    (few, first_kib), (many, second_kib) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (92, 5497)
    # The hour is 230 MB at 16 kHz.
    assert second_kib - first_kib < 20_000
