"""The ensemble command as a process: models of all kinds, scored once, alike on any number of processes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.mixture import mix
from audiotag.evaluation.results import read_evaluation
from audiotag.evaluation.scores import Scores

# A run, a checkpoint, an exported model and scores; the third and fourth of one epoch.
MEMBERS = ("exp/ens_a", "exp/ens_b/epoch-2.pt", "exp/ens_b/export", "exp/ens_b/eval_eval_epoch4")


@pytest.fixture(scope="module")
def place(recipe):
    """The recipe with two runs, one of them evaluated and exported."""
    for name, seed in (("ens_a", 1), ("ens_b", 2)):
        done = recipe.train(name, f"seed={seed}")
        assert done.returncode == 0, done.stderr
    run = ["--config", "config.yaml", "--exp-dir", "exp/ens_b"]
    for module, *arguments in (
        ("evaluate", *run, "--split", "valid", "--split", "eval"),
        ("evaluate", *run, "--epoch", "2"),
        ("export", *run, "--dest", "exp/ens_b/export"),
    ):
        done = recipe.run(module, *arguments)
        assert done.returncode == 0, done.stderr
    return recipe


def combine(place, *arguments: str, processes: int = 1):
    done = place.run("ensemble", *arguments, "--set", "evaluation.bootstrap=10", processes=processes)
    assert done.returncode == 0, done.stderr
    return done


def logits_of(place, folder: str) -> np.ndarray:
    return Scores.load(place.folder / folder / "scores.npz").logits


def test_models_are_scored_as_by_evaluate_and_only_once(place):
    done = combine(place, *MEMBERS, "--dest", "exp/four")
    assert done.stderr.count(": scores on eval are there") == 0 and "scoring exp/ens_a" in done.stderr
    found = read_evaluation(place.folder / "exp/four/eval_eval_ensemble4")
    [first] = (place.folder / "exp/four/members").glob("exp_ens_a_*/eval_eval_scores")
    expected = [Scores.load(first / "scores.npz").logits, logits_of(place, "exp/ens_b/eval_eval_epoch2")]
    expected += 2 * [logits_of(place, "exp/ens_b/eval_eval_epoch4")]
    np.testing.assert_allclose(found.scores().logits, mix(expected, [1, 1, 1, 1]), atol=1e-5)
    rows = found.info["ensemble"]["parts"]
    assert [row["name"] for row in rows] == ["exp/ens_a (epoch4)", *MEMBERS[1:], "ensemble"]
    assert done.stdout.splitlines()[2].startswith("exp/ens_a (epoch4)")
    again = combine(place, *MEMBERS, "--dest", "exp/four")
    assert again.stderr.count(": scores on eval are there already") == 3 and "scoring" not in again.stderr
    assert again.stdout == done.stdout
    # compare and report read it like any evaluation.
    done = place.run(
        "compare", "exp/ens_b/eval_eval_epoch4", "exp/four/eval_eval_ensemble4", "--bootstrap", "9"
    )
    assert done.returncode == 0 and "## B is exp/four" in done.stdout
    done = place.run("report", "--exp-dir", "exp/four")
    assert done.returncode == 0, done.stderr
    text = (place.folder / "exp/four/RESULTS.md").read_text()
    assert "| exp/ens_b/export | 0.2500 |" in text and "### Training" not in text


def test_scores_do_not_depend_on_the_number_of_processes(place):
    combine(place, *MEMBERS[:3], "--dest", "exp/one")
    done = combine(place, *MEMBERS[:3], "--dest", "exp/two", processes=2)
    assert done.stdout.count("ensemble") == 2  # the row and the line below the table, once each
    for name in ("eval_eval_ensemble3",):
        one, two = (Scores.load(place.folder / f"exp/{n}/{name}/scores.npz") for n in ("one", "two"))
        assert one.ids == two.ids
        np.testing.assert_array_equal(one.logits, two.logits)


def test_what_changed_is_scored_again_and_nothing_else(place):
    """The model, the clips, the settings; a file that was only copied is the same."""
    shutil.copytree(place.folder / "exp/ens_b/export", place.folder / "exp/copy")
    arguments = ("exp/copy", "exp/ens_b/epoch-2.pt", "--dest", "exp/changes")
    combine(place, *arguments)

    def scored(*more: str) -> list[str]:
        lines = combine(place, *arguments, *more).stderr.splitlines()
        return [line.partition("INFO ")[2] for line in lines if "scoring" in line or "again" in line]

    model = place.folder / "exp/copy/model.safetensors"
    model.touch()
    assert scored() == []
    shutil.copy(place.folder / "exp/ens_b/export/config.json", place.folder / "exp/copy/config.json")
    assert scored() == []
    description = json.loads((place.folder / "exp/copy/config.json").read_text())
    (place.folder / "exp/copy/config.json").write_text(json.dumps({**description, "info": {"other": 1}}))
    assert [line.split(" on ")[0] for line in scored()] == ["exp/copy is scored again", "scoring exp/copy"]
    lines = scored("--set", "evaluation.batch_size=5")
    assert len(lines) == 4 and all("of another settings" in line for line in lines if "again" in line)
    [folder] = (place.folder / "exp/changes/members").glob("exp_copy-*/eval_eval_scores")
    (folder / "scores.npz").unlink()
    assert scored("--set", "evaluation.batch_size=5") == ["scoring exp/copy on eval"]
    (folder / "metrics.json").write_text("{")
    assert scored("--set", "evaluation.batch_size=5") == ["scoring exp/copy on eval"]


def test_weights_are_fitted_on_valid(place):
    done = combine(place, *MEMBERS, "--dest", "exp/fitted", "--member-weights", "fitted")
    assert "fitted weights: cross-entropy" in done.stderr
    # The exported model does not say which clips it knows; runs do, and are checked.
    assert done.stderr.count("does not say which clips it was trained on") == 1
    info = read_evaluation(place.folder / "exp/fitted/eval_eval_ensemble4-fitted-loss").info
    assert sum(row["weight"] for row in info["ensemble"]["parts"][:-1]) == pytest.approx(1)
    assert info["ensemble"]["weighing"] == "weights fitted on 12 clips of valid (best loss)"
    assert info["selected_on"] == "valid"


def test_a_yaml_file_does_the_same(place):
    (place.folder / "two.yaml").write_text(
        "title: two of them\n"
        "members: [exp/ens_a, {path: exp/ens_b, epoch: 2, name: the second}]\n"
        "member_weights: [1, 3]\n"
        "evaluation: {batch_size: 9}\n"
    )
    done = combine(place, "--config", "two.yaml", "--combine", "logits")
    assert "the second" in done.stdout
    found = read_evaluation(place.folder / "exp/two/eval_eval_ensemble2-logits-weighted")
    assert found.info["title"] == "two of them"
    assert [row["weight"] for row in found.info["ensemble"]["parts"][:-1]] == [0.25, 0.75]


def test_epochs_one_by_one_and_all_so_far(place):
    done = combine(place, "--exp-dir", "exp/ens_a", "--epochs", "1-3")
    rows = [line.split() for line in done.stdout.splitlines()[2:5]]
    assert [" ".join(row[:2]) for row in rows] == ["epoch 1", "epoch 2", "epoch 3"]
    members = place.folder / "exp/ens_a/epochs/members"
    scores = [Scores.load(next(members.glob(f"epoch_{e}-*/*/scores.npz"))) for e in (1, 2, 3)]
    for count, (row, single) in enumerate(zip(rows, scores, strict=True), start=1):
        so_far = mix([one.logits for one in scores[:count]], [1] * count)
        for cell, logits in ((row[2], single.logits), (row[3], so_far)):
            assert cell == f"{compute_metrics(logits, single.labels).summary['mAP']:.4f}"
    evaluation = read_evaluation(place.folder / "exp/ens_a/epochs/eval_eval_epochs1-3")
    np.testing.assert_allclose(evaluation.scores().logits, so_far, rtol=1e-6)
    assert len(evaluation.info["ensemble"]["cumulative"]) == 3
    assert "| up to | mAP | cumulative mAP |" in (evaluation.folder / "members.md").read_text()
    # Later epochs are scored, the others are there.
    done = combine(place, "--exp-dir", "exp/ens_a", "--epochs", "2-4")
    assert done.stderr.count("are there already") == 2 and done.stderr.count("scoring") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["exp/ens_a", "exp/ens_b"], 2, "error: name the folder of the ensemble with --dest"),
        (["exp/ens_a", "--dest", "x", "--data-dir", "y"], 3, "cuts_eval.jsonl is missing; stage 1 makes it"),
        ([], 2, "name members, or an ensemble's --config, or a run's --exp-dir and --epochs"),
        (["--exp-dir", "exp/ens_a"], 2, "--exp-dir and --epochs go together"),
        (["--exp-dir", "exp/ens_a", "--epochs", "3-1"], 2, "expected FIRST-LAST, such as 1-25"),
        (["--exp-dir", "exp/ens_a", "--epochs", "1-2", "--best"], 2, "only --weights goes with it"),
        (["--exp-dir", "exp/ens_a", "--epochs", "1-9"], 4, "has no checkpoint of epoch 5"),
        (["--config", "two.yaml", "--avg", "2"], 2, "chooses the weights of its runs itself"),
        (["exp/ens_a", "--dest", "x", "--member-weights", "a,b"], 2, "expected uniform, fitted, or numbers"),
        (["exp/ens_a", "--dest", "x", "--set", "combin=logits"], 2, "did you mean 'combine'?"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(place, arguments, code, message):
    done = place.run("ensemble", *arguments)
    assert done.returncode == code and message in done.stderr.splitlines()[-1], done.stderr
    assert not (place.folder / "x").exists()


def test_the_reference_is_printed(place):
    done = place.run("ensemble", "--reference")
    assert (
        done.returncode == 0 and "| `member_weights` | `uniform`, `fitted` or list of number |" in done.stdout
    )
