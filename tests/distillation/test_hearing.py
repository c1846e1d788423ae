"""Teachers hear every clip once: in any number of processes, stopped or killed at any time."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiotag.data.index import IndexedManifest
from audiotag.data.loader import make_loader
from audiotag.evaluation.scoring import model_inputs
from audiotag.export.package import load_model
from tests.distillation.scenes import write_teacher
from tests.training.processes import Run

SECTION = "distillation={teachers: [teachers/a, teachers/b], weights: [2, 1]}"
ARGUMENTS = ("--config", "config.yaml", "--set", SECTION, "--set", "evaluation.batch_size=3")
CLIPS = 36


@pytest.fixture
def hear(taught, tmp_path):
    """Start the command with a data folder of its own; returns the run and the folder of its scores."""
    shutil.copytree(taught.folder / "data" / "manifests", tmp_path / "data" / "manifests")

    def start(*options: str, processes: int = 1) -> tuple[Run, Path]:
        arguments = ("teacher_scores", *ARGUMENTS, *options, "--data-dir", str(tmp_path / "data"))
        module = "tests.distillation.small_blocks"
        return Run(taught, *arguments, processes=processes, module=module), tmp_path / "data" / "teacher"

    return start


def finished(run: Run, folder: Path) -> np.ndarray:
    """The scores when the run has ended well."""
    assert run.wait() == 0, run.output
    (store,) = (path for path in folder.iterdir() if (path / "store.json").is_file())
    assert sorted(path.name for path in store.iterdir()) == [
        ".run.lock",
        "ids.npy",
        "inputs.npz",
        "scores.npy",
        "store.json",
    ]
    return np.load(store / "scores.npy")


@pytest.fixture(scope="module")
def expected(taught) -> np.ndarray:
    """The log odds of the mean probability of both teachers, clip by clip."""
    manifest = IndexedManifest(taught.folder / "data" / "manifests" / "cuts_train.jsonl")
    batches = [np.array([position]) for position in range(len(manifest))]
    loader = make_loader(manifest, batches, storage="on_the_fly", num_classes=10, num_workers=0)
    taggers = [load_model(taught.folder / "teachers" / name).tagger for name in "ab"]
    rows = []
    with torch.no_grad():
        for batch in loader:
            inputs = [model_inputs(tagger.frontend, batch, torch.device("cpu")) for tagger in taggers]
            one, other = (tagger(*x).sigmoid() for tagger, x in zip(taggers, inputs, strict=True))
            rows.append(((2 * one + other) / 3).logit())
    return torch.cat(rows).numpy()


@pytest.mark.slow
def test_every_clip_has_the_teachers_logits_once(hear, expected):
    run, folder = hear()
    scores = finished(run, folder)
    assert scores.shape == (CLIPS, 10) and scores.dtype == np.float16
    np.testing.assert_allclose(scores, expected, atol=0.004)
    assert np.ptp(scores) > 2  # there is something to tell apart
    assert "in 9 blocks, 0 of which are done" in run.output
    again, _ = hear()
    assert again.wait() == 0 and "blocks" not in again.output


@pytest.mark.slow
def test_killed_it_goes_on_behind_the_finished_blocks(hear, expected):
    run, folder = hear(processes=2)
    assert run.wait_until(lambda: len(list(folder.glob("*/blocks/[0-9]*.npz"))) >= 3, every_s=0.005)
    run.kill()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/blocks/[0-9]*.npz")}
    assert 3 <= len(kept) < 9
    run, _ = hear()  # another number of processes
    assert run.wait_until(lambda: len(list(folder.glob("*/blocks/[0-9]*.npz"))) > len(kept), every_s=0.005)
    run.kill()
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    run, _ = hear(processes=2)
    np.testing.assert_allclose(finished(run, folder), expected, atol=0.004)
    assert int(re.search(r"in 9 blocks, (\d) of which are done", run.output)[1]) > len(kept)


@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_stop_it_says_where_it_was(hear, processes):
    run, folder = hear(processes=processes)
    assert run.wait_until(lambda: len(list(folder.glob("*/blocks/[0-9]*.npz"))) >= 2, every_s=0.005)
    run.process.send_signal(signal.SIGTERM)
    code = run.wait()
    assert code == 75 or processes > 1
    assert re.search(r"stopped by SIGTERM after \d of 9 blocks of the teachers' scores; the same", run.output)
    assert len(list(folder.glob("*/blocks/[0-9]*.npz"))) < 9


@pytest.mark.slow
def test_another_teacher_has_scores_of_its_own(hear, taught, tmp_path):
    labels = load_model(taught.folder / "teachers" / "a").tagger.labels
    place = tmp_path / "changing"
    option = ("--set", f"distillation={{teachers: [{place}], weights: null}}")
    scores = []
    for seed in (5, 6):
        write_teacher(place, labels, seed=seed)
        run, folder = hear(*option)
        assert run.wait() == 0, run.output
        scores.append({path: path.read_bytes() for path in folder.glob("changing-*/scores.npy")})
    assert len(scores[1]) == 2 and scores[0].items() <= scores[1].items()
    assert len(set(scores[1].values())) == 2
    assert "of other models of that name, clips or settings" in run.output


@pytest.mark.slow
def test_clips_that_cannot_be_read_have_no_scores(hear, expected, tmp_path):
    manifest = tmp_path / "data" / "manifests" / "cuts_train.jsonl"
    lines = manifest.read_text().splitlines()
    broken = re.sub(r'"source": "[^"]*"', '"source": "/nowhere.wav"', lines[5])
    manifest.write_text("\n".join([*lines[:5], broken, *lines[6:]]) + "\n")
    run, folder = hear("--set", "data.max_unreadable=0")
    assert run.wait() == 3
    assert "1 of 36 clips could not be read, more than data.max_unreadable (0) allows" in run.output
    run, folder = hear("--set", "data.max_unreadable=0.03")
    scores = finished(run, folder)
    assert "8 of which are done" in run.output  # the clip was tried again
    assert np.isnan(scores[5]).all() and not np.isnan(np.delete(scores, 5, axis=0)).any()
    np.testing.assert_allclose(np.delete(scores, 5, axis=0), np.delete(expected, 5, axis=0), atol=0.004)


@pytest.mark.slow
def test_other_audio_behind_the_same_manifest_is_heard_anew(hear, taught, expected, tmp_path):
    corpus, copy = taught.folder / "corpus", tmp_path / "corpus"
    manifest = tmp_path / "data" / "manifests" / "cuts_train.jsonl"
    manifest.write_text(manifest.read_text().replace(str(corpus), str(copy)))
    for _ in range(2):  # with other dates than those of the first time
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(corpus, copy, copy_function=shutil.copyfile)
        run, folder = hear()
        np.testing.assert_allclose(finished(run, folder), expected, atol=0.004)
    assert "blocks" not in run.output
    for path in copy.rglob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples / 2, rate)
    run, folder = hear()
    scores = finished(run, folder)
    assert (
        "16 of 16 compared clips are not as inputs.npz has them; the teachers' scores are made" in run.output
    )
    assert "in 9 blocks, 0 of which are done" in run.output
    assert np.abs(scores - expected).max() > 0.1
    again, _ = hear()
    assert again.wait() == 0 and "blocks" not in again.output


def test_only_stored_scores_are_made_beforehand(taught):
    done = taught.run("teacher_scores", "--config", "config.yaml")
    assert done.returncode == 2
    assert "config.yaml: only distillation.mode stored needs stored scores" in done.stderr
