"""egs/audioset trains its Zipformer, with noise, from AudioSet's layout and from icefall's manifests."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.corpora.synthetic import synthesize
from tests.corpora.lhotsecuts import Recipe
from tests.driver.clone import copy_tree, environment

pytestmark = pytest.mark.slow

TINY = [
    "encoder.num_encoder_layers=1",
    "encoder.downsampling_factor=[1, 2]",
    "encoder.encoder_dim=[16, 24]",
    "encoder.encoder_unmasked_dim=16",
    "encoder.num_heads=2",
    "encoder.query_head_dim=8",
    "encoder.feedforward_dim=16",
    "encoder.cnn_module_kernel=7",
    "encoder.pos_dim=8",
    "corpus.valid_share=0.2",
    "data.num_buckets=2",
    "data.num_workers=1",
    "training.epochs=2",
    "training.amp=off",
    "training.running_average.period=1",
    "evaluation.bootstrap=0",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def musan(tmp_path_factory) -> Path:
    """Two recordings of noise, of 7 and 12 s."""
    folder = tmp_path_factory.mktemp("musan")
    for number, name in enumerate(("noise/free-sound/hum", "music/fma/band")):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True)
        samples = 0.1 * np.random.default_rng(number).standard_normal(16000 * (7 + 5 * number))
        soundfile.write(path, samples.astype(np.float32), 16000)
    return folder


@pytest.fixture(scope="module")
def audioset(tmp_path_factory) -> Path:
    """The generated corpus with AudioSet's own names of lists: 12 clips are balanced, 36 are not."""
    folder = tmp_path_factory.mktemp("audioset")
    synthesize(folder, seed=1, train_clips=48, eval_clips=12)
    lines = (folder / "train_segments.csv").read_text().splitlines(keepends=True)
    comments = [line for line in lines if line.startswith("#")]
    rows = lines[len(comments) :]
    (folder / "balanced_train_segments.csv").write_text("".join(comments + rows[:12]))
    (folder / "unbalanced_train_segments.csv").write_text("".join(comments + rows[12:]))
    (folder / "train_segments.csv").unlink()
    return folder


def drive(tree, config, *arguments, corpus, musan, settings=()):
    overrides = [word for setting in [*TINY, *settings] for word in ("--set", setting)]
    done = subprocess.run(
        ["bash", "run.sh", "--recipe", "audioset", "--config", f"conf/{config}.yaml", *arguments, *overrides],
        cwd=tree,
        env=environment(AUDIOSET=str(corpus), MUSAN=str(musan), OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_from_audio_to_scores_with_two_processes(tree, audioset, musan):
    icefalls = ("--max-duration", "30", "--epoch", "2", "--avg", "1", "--use-averaged-model", "--ngpu", "2")
    said = drive(tree, "zipformer_m", *icefalls, "--stop-stage", "7", corpus=audioset, musan=musan)
    recipe = tree / "egs/audioset"
    coverage = json.loads((recipe / "data/manifests/coverage.json").read_text())
    assert coverage["train"]["present"] + coverage["valid"]["present"] == 48
    assert (recipe / "data/noise/icefall80/cuts_noise.jsonl").stat().st_size > 0
    metrics = recipe / "exp/zipformer_m/eval_eval_epoch2-avg1-averaged-model/metrics.json"
    assert metrics.is_file()
    assert "the config computes features on the fly" in said  # stage 2
    assert "| eval | epoch2-avg1-averaged-model | 12 |" in (recipe / "exp/zipformer_m/RESULTS.md").read_text()

    # The same data, drawn by weight.
    few = ("data.samples_per_epoch=20", "evaluation.avg=1")
    weighted = ("--max-duration", "30", "--stop-stage", "6")
    drive(tree, "zipformer_m_weighted", *weighted, corpus=audioset, musan=musan, settings=few)
    assert (recipe / "exp/zipformer_m_weighted/eval_eval_epoch2-avg1-averaged-model/scores.npz").is_file()


def test_from_icefalls_features_to_scores(tree, tmp_path, musan):
    icefall = Recipe(tmp_path, clips=24)
    icefall.write(with_features=True)
    icefall.remove_all_audio()
    arguments = ("--max-duration", "20", "--ngpu", "1", "--avg", "1", "--stop-stage", "6")
    said = drive(tree, "zipformer_m_cuts", *arguments, corpus=icefall.root, musan=musan)
    recipe = tree / "egs/audioset"
    assert "holds cut manifests, as icefall's recipe leaves them: nothing is fetched" in said
    assert "the stored features of 8 cuts are used as they are" in said
    assert not list((recipe / "data/fbank/icefall80/archives").glob("*-*"))
    with (recipe / "exp/zipformer_m_cuts/eval_eval_epoch2-avg1-averaged-model/per_class.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
