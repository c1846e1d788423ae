"""The ensemble command: models of all kinds, scored once, alike on any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiotag.bin import ensemble, evaluate
from audiotag.data.index import IndexedManifest
from audiotag.errors import CheckpointError, ConfigError, DataError, StorageError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.mixture import mix
from audiotag.evaluation.results import read_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.export.package import export_package
from audiotag.training.checkpoint import save_checkpoint
from audiotag.training.resume import fingerprint
from tests.data_pipeline.manifests import record, write_manifest
from tests.tiny import tiny_checkpoint, tiny_config, tiny_labels, tiny_tagger

ROOT = Path(__file__).resolve().parents[2]
CLIPS = {"train": 4, "valid": 9, "eval": 10}
# A run, a checkpoint, an exported model, and scores.
MEMBERS = ("exp/a", "exp/b/epoch-1.pt", "model", "exp/b/eval_eval_epoch2")
SHORT = ("--set", "evaluation.bootstrap=10", "--set", "num_workers=0")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Prepared data, two runs of which one was evaluated, and an exported model; where we are."""
    rng = np.random.default_rng(0)
    manifests = tmp_path / "data" / "manifests"
    for split, count in CLIPS.items():
        records = []
        for number in range(count):
            path = tmp_path / "audio" / f"{split}{number}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal(4000 + 200 * number), 16000)
            labels = ";".join(map(str, {number % 3, number * number % 3}))
            records.append(record(f"-{split}_{number}", 0.25 + number / 80, labels, str(path)))
        write_manifest(manifests / f"cuts_{split}.jsonl", records)
    tiny_labels().write(manifests / "labels.csv")
    counts = {split: {"listed": n, "present": n, "skipped": {}, "seconds": n} for split, n in CLIPS.items()}
    (manifests / "coverage.json").write_text(json.dumps(counts))
    known = {"train_data": fingerprint(IndexedManifest([manifests / "cuts_train.jsonl"]))}
    for run, seeds in (("a", (1, 2, 3, 4)), ("b", (5, 6))):
        for epoch, seed in enumerate(seeds, start=1):
            save_checkpoint(
                tmp_path / "exp" / run / f"epoch-{epoch}.pt", tiny_checkpoint(seed, epoch, **known)
            )
        (tmp_path / "exp" / run / "config.yaml").write_text(
            "title: a run\nfeatures: {storage: on_the_fly}\ndata: {num_workers: 0}\n"
        )
    export(tmp_path / "model", seed=7)
    monkeypatch.chdir(tmp_path)
    run = ["evaluate", "--config", "exp/b/config.yaml", "--exp-dir", "exp/b", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", [*run, "--split", "valid", "--split", "eval"])
    evaluate.main()
    return tmp_path


def export(folder: Path, seed: int) -> None:
    weights = tiny_tagger(seed).state_dict()
    export_package(folder, weights=weights, config=tiny_config(), labels=tiny_labels(), info={})


@pytest.fixture
def combine(place, monkeypatch, capsys):
    """A function that runs the command here and gives what it prints and what it logs."""

    def combine(*arguments: str) -> tuple[list[str], list[str]]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["ensemble", *arguments, "--device", "cpu", *SHORT])
        ensemble.main()
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err.splitlines()

    return combine


def run_process(place, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["-m", "audiotag.bin.ensemble"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *launcher]
    return subprocess.run(
        [sys.executable, *launcher, *arguments, "--device", "cpu", *SHORT],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def logits_at(path: Path) -> np.ndarray:
    return Scores.load(path / "scores.npz").logits


def lines_with(lines: list[str], text: str) -> int:
    return sum(text in line for line in lines)


def test_models_are_scored_as_by_evaluate_and_only_once(place, combine, monkeypatch):
    table, log = combine(*MEMBERS, "--dest", "exp/four")
    assert lines_with(log, "are there already") == 0 and lines_with(log, "scoring ") == 3
    found = read_evaluation(place / "exp/four/eval_eval_ensemble4")
    for run, options in (("a", ()), ("b", ("--epoch", "1"))):
        given = ["evaluate", "--config", "exp/a/config.yaml", "--exp-dir", f"exp/{run}", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", [*given, *options])
        evaluate.main()
    evaluated = ("exp/a/eval_eval_epoch4", "exp/b/eval_eval_epoch1", "exp/b/eval_eval_epoch2")
    expected = [logits_at(place / folder) for folder in evaluated]
    [of_model] = (place / "exp/four/members").glob("model-*/eval_eval_scores")
    expected.insert(2, logits_at(of_model))
    np.testing.assert_allclose(found.scores().logits, mix(expected, [1, 1, 1, 1]), atol=1e-6)
    names = ["exp/a (epoch4)", *MEMBERS[1:], "ensemble"]
    assert [row["name"] for row in found.info["ensemble"]["parts"]] == names
    assert all(line.startswith(name) for name, line in zip(names, table[2:], strict=False))
    # Everything that scores come from is known by its digest.
    assert len(found.info["sha256"]) == len(found.info["checkpoints"]) == 4
    again, log = combine(*MEMBERS, "--dest", "exp/four")
    assert again == table
    assert lines_with(log, "are there already") == 3 and lines_with(log, "scoring ") == 0


def test_compare_and_report_read_it(place, combine):
    combine(*MEMBERS, "--dest", "exp/four")
    for module, *arguments in (
        ("compare", "exp/b/eval_eval_epoch2", "exp/four/eval_eval_ensemble4", "--bootstrap", "9"),
        ("report", "--exp-dir", "exp/four"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"audiotag.bin.{module}", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    text = (place / "exp/four/RESULTS.md").read_text()
    assert "| model | 0.2500 |" in text and "### Training" not in text


def test_several_processes_give_the_same(place, combine):
    table, _ = combine(*MEMBERS[:3], "--dest", "exp/one")
    done = run_process(place, *MEMBERS[:3], "--dest", "exp/two", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == table
    one, two = (Scores.load(place / f"exp/{n}/eval_eval_ensemble3/scores.npz") for n in ("one", "two"))
    assert one.ids == two.ids
    np.testing.assert_array_equal(one.logits, two.logits)


def test_what_changed_is_scored_again_and_nothing_else(place, combine):
    """The model, the clips, the settings; a file that was only copied is the same."""
    arguments = ("model", "exp/b/epoch-1.pt", "--dest", "exp/changes")
    combine(*arguments)

    def scored(*more: str) -> list[str]:
        _, log = combine(*arguments, *more)
        messages = [line.partition("INFO ")[2] or line.partition("WARNING ")[2] for line in log]
        return [text for text in messages if "scoring" in text or "again" in text]

    shutil.copy(place / "model/model.safetensors", place / "copy")
    shutil.copy(place / "copy", place / "model/model.safetensors")
    assert scored() == []
    export(place / "model", seed=8)  # of the same size
    why, doing = scored()
    assert why.startswith("model is scored again on eval: model changed since the scores in exp/changes/mem")
    assert doing == "scoring model on eval"
    lines = scored("--set", "evaluation.batch_size=5")
    assert len(lines) == 4 and lines_with(lines, "eval: settings changed since") == 2
    manifest = place / "data/manifests/cuts_eval.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:8]))
    assert lines_with(scored(), "eval: clips and settings changed since") == 2
    assert read_evaluation(place / "exp/changes/eval_eval_ensemble2").metrics["num_clips"] == 8
    [folder] = (place / "exp/changes/members").glob("model-*/eval_eval_scores")
    (folder / "scores.npz").unlink()
    assert lines_with(scored(), "scoring model on eval") == 1
    (folder / "metrics.json").write_text("{")
    assert lines_with(scored(), "scoring model on eval") == 1
    for name in ("scores.npz", "per_class.csv"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        damaged = (folder / name).relative_to(place)
        assert lines_with(scored(), f"model is scored again on eval: {damaged}") == 1
    assert scored() == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_scored(place, combine):
    (place / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write into file/both: .*/file is a file"):
        combine("model", "nowhere", "--dest", "file/both")


def test_weights_are_fitted_on_valid(place, combine):
    _, log = combine(*MEMBERS, "--dest", "exp/fitted", "--member-weights", "fitted")
    assert lines_with(log, "fitted weights: cross-entropy") == 1
    # The exported model does not say which clips it knows; runs do, and are checked.
    assert lines_with(log, "model does not say which clips it was trained on") == 1
    info = read_evaluation(place / "exp/fitted/eval_eval_ensemble4-fitted-loss").info
    assert sum(row["weight"] for row in info["ensemble"]["parts"][:-1]) == pytest.approx(1)
    assert info["ensemble"]["weighing"] == "weights fitted on 9 clips of valid (best loss)"
    assert info["selected_on"] == "valid"


def test_a_valid_that_a_run_was_trained_on_is_refused(place, combine):
    path = place / "exp/a/epoch-4.pt"
    save_checkpoint(path, tiny_checkpoint(4, 4, train_data={"clips": 1, "digest": "x"}))
    with pytest.raises(DataError, match="its valid split may hold clips that the model has seen"):
        combine(*MEMBERS, "--dest", "exp/fitted", "--member-weights", "fitted")


def test_a_yaml_file_does_the_same(place, combine):
    (place / "two.yaml").write_text(
        "title: two of them\n"
        "members: [exp/a, {path: exp/b, epoch: 1, name: the second}]\n"
        "member_weights: [1, 3]\n"
    )
    table, _ = combine("--config", "two.yaml", "--combine", "logits")
    assert table[3].startswith("the second")
    found = read_evaluation(place / "exp/two/eval_eval_ensemble2-logits-weighted")
    assert found.info["title"] == "two of them"
    assert [row["weight"] for row in found.info["ensemble"]["parts"][:-1]] == [0.25, 0.75]


def test_epochs_one_by_one_and_all_so_far(place, combine):
    table, _ = combine("--exp-dir", "exp/a", "--epochs", "1-3")
    rows = [line.split() for line in table[2:5]]
    assert [" ".join(row[:2]) for row in rows] == ["epoch 1", "epoch 2", "epoch 3"]
    members = place / "exp/a/epochs/members"
    scores = [Scores.load(next(members.glob(f"epoch_{e}-*/*/scores.npz"))) for e in (1, 2, 3)]
    for count, (row, single) in enumerate(zip(rows, scores, strict=True), start=1):
        so_far = mix([one.logits for one in scores[:count]], [1] * count)
        for cell, logits in ((row[2], single.logits), (row[3], so_far)):
            assert cell == f"{compute_metrics(logits, single.labels).summary['mAP']:.4f}"
    evaluation = read_evaluation(place / "exp/a/epochs/eval_eval_epochs1-3")
    np.testing.assert_allclose(evaluation.scores().logits, so_far, rtol=1e-5, atol=1e-6)
    assert len(evaluation.info["ensemble"]["cumulative"]) == 3 and evaluation.info["title"] == "a run"
    assert "| up to | mAP | cumulative mAP |" in (evaluation.folder / "members.md").read_text()
    # Later epochs are scored, the others are there.
    _, log = combine("--exp-dir", "exp/a", "--epochs", "2-4")
    assert lines_with(log, "are there already") == 2 and lines_with(log, "scoring ") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["exp/a", "exp/b"], ConfigError, "name the folder of the ensemble with --dest"),
        (
            ["exp/a", "--dest", "x", "--data-dir", "y"],
            DataError,
            "cuts_eval.jsonl is missing; stage 1 makes it",
        ),
        (["--exp-dir", "exp/a", "--epochs", "1-9"], CheckpointError, "has no checkpoint of epoch 5"),
        (["exp/a", "--dest", "x", "--set", "combin=logits"], ConfigError, "did you mean 'combine'?"),
        (["exp/a", "--dest", "x", "--member-weights", "1,2"], ConfigError, "has 2 numbers for 1 members"),
        ([], SystemExit, "name members, or an ensemble's --config, or a run's --exp-dir and --epochs"),
        (["--exp-dir", "exp/a"], SystemExit, "--exp-dir and --epochs go together"),
        (["--exp-dir", "exp/a", "--epochs", "3-1"], SystemExit, "expected FIRST-LAST, such as 1-25"),
        (["--exp-dir", "exp/a", "--epochs", "1-2", "--best"], SystemExit, "only --weights goes with it"),
        (["--config", "two.yaml", "--avg", "2"], SystemExit, "chooses the weights of its runs itself"),
        (
            ["exp/a", "--dest", "x", "--member-weights", "a"],
            SystemExit,
            "expected uniform, fitted, or numbers",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(place, combine, capsys, arguments, error, message):
    with pytest.raises(error) as caught:
        combine(*arguments)
    text = capsys.readouterr().err if error is SystemExit else str(caught.value)
    assert message in text
    assert not (place / "x").exists()


def test_an_error_is_one_line_and_its_exit_code(place):
    done = run_process(place, "exp/a", "nowhere", "--dest", "x")
    assert (done.returncode, done.stdout) == (3, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: members.1.path: nowhere is not there")


def test_the_reference_is_printed(combine):
    lines, _ = combine("--reference")
    assert "| `member_weights` | `uniform`, `fitted` or list of number |" in "\n".join(lines)
