"""Messages and exit codes of the data commands as a user sees them."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from audiotag.config import Features

CONFIG_ERROR, DATA_ERROR = 2, 3


def refused(done, code, *parts):
    """The command left with this code and one line for the user."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    for part in parts:
        assert part in errors[0]


def accepted(done, *parts):
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def listed(folder):
    """Good clips, and one that is listed and missing."""
    for number in range(8):
        folder.clip("train", f"train_{number:05d}")
    folder.clip("eval", "-eval_00000")
    folder.listed("eval", "_missing_00")
    folder.write_lists()
    return folder


def test_synthesize(folder):
    refused(folder.run("synthesize", "--dest", "mini", "--seed", "-1", config=None), CONFIG_ERROR, "--seed")
    assert not (folder.root / "mini").exists()


def test_prepare(listed):
    def run(override):
        return listed.run("prepare", "--set", override)

    refused(listed.run("prepare"), DATA_ERROR, "eval: 1 of 2 listed clips (50.0%)", "_missing_00 (missing)")
    refused(run("corpus.dir=null"), CONFIG_ERROR, "corpus.dir is not set")
    refused(run("corpus.dir=absent"), DATA_ERROR, "absent (corpus.dir)")
    refused(run("corpus.labels=absent.csv"), DATA_ERROR, "label list not found")
    refused(run("corpus.eval_lists=[absent.csv]"), DATA_ERROR, "segment list not found")
    refused(run("corpus.audio_dir=absent"), DATA_ERROR, "audio folder not found")
    with (listed.corpus / "train_segments.csv").open("a") as file:
        file.write("half_a_row, 0.000\n")
    refused(listed.run("prepare"), DATA_ERROR, "train_segments.csv, line 12", "found 2 columns")
    done = listed.run("prepare", "--verbose")
    assert done.returncode == DATA_ERROR and "Traceback" in done.stderr


@pytest.mark.slow
def test_the_stages_in_order_and_what_each_says_without_the_one_before(listed):
    refused(listed.run("extract_features"), DATA_ERROR, "cuts_train.jsonl is missing; stage 1 makes it")
    done = listed.run(
        "prepare", "--set", "corpus.max_skip=0.5", "--set", "corpus.valid_share=0.3", "--nj", "2"
    )
    accepted(done, "eval: 1 of 2 listed clips", "skipped: 1 missing")
    refused(listed.run("stats"), DATA_ERROR, "cuts_train.jsonl is missing; stage 2 makes it")
    accepted(listed.run("extract_features", "--set", "features.storage=on_the_fly"), "nothing to do")
    accepted(listed.run("extract_features", "--nj", "2"))
    measured = listed.run("stats", "--nj", "2")
    accepted(measured, "mean -")
    made = {path.name for path in (listed.data / "stats" / "ast128_64_stored").iterdir()}
    assert made == {"stats.json", "normalization.yaml", "label_counts.csv", "weights_train.npz"}
    check_pasted(measured.stdout, listed.data / "stats" / "ast128_64_stored")

    for archive in (listed.data / "fbank" / "ast128" / "archives").glob("train-*.lca"):
        archive.write_bytes(archive.read_bytes()[:-100])
    done = listed.run("stats")
    refused(done, DATA_ERROR, "clip train_0000", ".lca", "run the stages from 1 on again")
    manifest = listed.manifests / "cuts_train.jsonl"
    os.truncate(manifest, manifest.stat().st_size - 30)
    lines = len(manifest.read_text().splitlines())
    refused(listed.run("extract_features"), DATA_ERROR, f"cuts_train.jsonl, line {lines}: not a cut")


def check_pasted(printed, folder):
    """What the command printed can be pasted into a configuration, and is what it measured."""
    assert printed == (folder / "normalization.yaml").read_text()
    features = Features.model_validate(yaml.safe_load(printed)["features"])
    measured = json.loads((folder / "stats.json").read_text())["train"]
    assert (features.mean, features.std) == pytest.approx((measured["mean"], measured["std"]), abs=1e-6)


def test_the_statistics_explain_themselves(folder):
    done = folder.run("stats", "--help", config=None)
    assert "rows of padding included" in done.stdout and "features.normalization: corpus" in done.stdout


def test_prepare_noise(folder):
    def run(dir):
        return folder.run("prepare_noise", "--nj", "2", config=f"augment: {{noise: {{dir: {dir}}}}}\n")

    accepted(folder.run("prepare_noise", config="title: none\n"), "augment.noise is null: there is nothing")
    refused(run("null"), CONFIG_ERROR, "augment.noise.dir is not set")
    for number in range(2):
        folder.wav(f"noise/some/noise-{number}.wav", seconds=12.0)
    accepted(run("corpus/audio"), "noise: 2 windows")
    assert (folder.data / "noise" / "ast128" / "cuts_noise.jsonl").is_file()
