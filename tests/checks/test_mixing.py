"""A look at what training mixes in from elsewhere: noise and the train sets of other recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.checks.mixing import check_mixing
from audiotag.checks.space import planned_noise
from audiotag.configfile import load_config
from audiotag.corpora.musan import prepare_musan
from audiotag.data.noise import noise_path

PRESET = {"preset": "ast128", "storage": "on_the_fly"}


@pytest.fixture
def look(recipe):
    """A function from overrides to the one finding."""

    def find(*overrides: str, data_dir: Path | None = None):
        config = load_config(recipe.folder / "config.yaml", [*overrides])
        [finding] = check_mixing(config, data_dir or recipe.folder / "data", num_clips=3)
        return finding

    return find


@pytest.fixture
def noise(tmp_path) -> Path:
    """Three recordings of 12 s in MUSAN's layout, and one that is no audio."""
    folder = tmp_path / "musan" / "music"
    folder.mkdir(parents=True)
    for number in range(3):
        samples = 0.1 * np.random.default_rng(number).standard_normal(12 * 16000)
        soundfile.write(folder / f"{number}.wav", samples, 16000)
    (folder / "other.wav").write_text("no audio")
    return folder.parent


def test_nothing_is_mixed_in(recipe):
    config = load_config(recipe.folder / "config.yaml")
    assert check_mixing(config, recipe.folder / "data", num_clips=3) == []


def test_noise_before_and_after_stage_3(look, noise, tmp_path):
    finding = look(f"augment.noise.dir={noise}")
    assert finding.level == "warn" and f"4 recordings are in {noise}, not prepared" in finding.text
    finding = look(f"augment.noise.dir={noise}/away")
    assert (finding.level, finding.exit_code) == ("fail", 3) and "none of the folders" in finding.text
    finding = look("augment.noise={}")
    assert (finding.level, finding.exit_code) == ("fail", 2) and "db.sh" in finding.text
    data = tmp_path / "data"
    prepare_musan(data, dir=str(noise), **PRESET)
    assert look(f"augment.noise.dir={noise}", data_dir=data).level == "ok"
    shutil.rmtree(noise)
    finding = look(f"augment.noise.dir={noise}", data_dir=data)
    assert finding.level == "fail" and "3 of a sample of 3 clips cannot be read" in finding.text


def test_room_for_the_features_of_noise(recipe, noise, tmp_path):
    stored = ["features.storage=stored", f"augment.noise.dir={noise}"]
    config = load_config(recipe.folder / "config.yaml", stored)
    size, text = planned_noise(config, tmp_path)
    assert 36 * 100 * 128 < size < 36 * 100 * 128 * 1.5 and "noise 1 MB of 0.0 h" in text
    assert (
        "unknown"
        in planned_noise(
            load_config(recipe.folder / "config.yaml", [*stored[:1], "augment.noise={}"]), tmp_path
        )[1]
    )
    noise_path(tmp_path, "ast128").parent.mkdir(parents=True)
    noise_path(tmp_path, "ast128").touch()
    assert planned_noise(config, tmp_path)[0] == 0


def test_train_sets_of_other_recipes(look, recipe, tmp_path):
    other = tmp_path / "other"
    sources = f"data.sources=[{{}}, {{data_dir: {other}}}]"
    finding = look(sources)
    assert (finding.level, finding.exit_code) == (
        "fail",
        3,
    ) and f"{other}/manifests/cuts_train" in finding.text
    shutil.copytree(recipe.folder / "data", other)
    assert look(sources).level == "ok"
    (tmp_path / "empty" / "manifests").mkdir(parents=True)
    (tmp_path / "empty" / "manifests" / "cuts_train.jsonl").touch()
    shutil.copy(other / "manifests" / "labels.csv", tmp_path / "empty" / "manifests")
    assert "it has no clips" in look(f"data.sources=[{{data_dir: {tmp_path / 'empty'}}}]").text
    (tmp_path / "new").mkdir()
    assert look(sources, data_dir=tmp_path / "new").level == "ok"  # whose own clips are not listed yet
    finding = look(sources, "data.sampling=weighted")
    assert finding.level == "fail" and "stage 4" in finding.text


def test_other_recipes_clips_that_this_one_evaluates_on(look, recipe, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(recipe.folder / "data", other)
    for path in (other / "manifests").glob("*train*"):
        path.unlink()
    shutil.copy(other / "manifests" / "cuts_eval.jsonl", other / "manifests" / "cuts_train.jsonl")
    finding = look(f"data.sources=[{{data_dir: {other}}}]")
    assert (finding.level, finding.exit_code) == ("fail", 3) and "eval split" in finding.text
