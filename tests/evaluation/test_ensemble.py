"""Ensembles of generated scores: what is matched, what is refused, and what their tables say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from audiotag.configensemble import Ensemble
from audiotag.configfile import load_config
from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.ensemble import beside, check_other_clips, given_weights, merged_info, read_member
from audiotag.evaluation.ensembletext import describe_ensemble
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.mixture import mix
from audiotag.evaluation.mixtureweights import fit_weights
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import Label, LabelTable
from audiotag.prediction.ensembling import combine_split, find_scores
from audiotag.prediction.members import find_members


def another(scores: Scores, seed: int, amount: float = 1.0) -> Scores:
    """The same clips as another model would score them."""
    noise = np.random.default_rng(seed).standard_normal(scores.logits.shape)
    return Scores(scores.ids, scores.logits + amount * noise, scores.labels)


def part(scores: Scores, rows) -> Scores:
    return Scores([scores.ids[row] for row in rows], scores.logits[rows], scores.labels[rows])


@pytest.fixture
def three(tmp_path, make_scores, make_labels) -> list[Path]:
    """Evaluations of eval by three runs, and of valid beside them, of other clips."""
    scores, labels = make_scores(80, 5), make_labels(5)
    folders = []
    for seed in range(3):
        own = another(scores, seed, amount=2.0 + 0.5 * seed)
        info = {
            "weights": "epoch5",
            "checkpoints": ["epoch-5.pt"],
            "sha256": {"epoch-5.pt": f"{seed}"},
            "precision": "float32",
            "coverage": {"eval": {"listed": 50, "present": 50, "skipped": {}, "seconds": 500.0}},
            "selected_on": "valid" if seed == 1 else None,
        }
        folder = tmp_path / f"run{seed}"
        for split, rows in (("eval", range(50)), ("valid", range(50, 80))):
            write_evaluation(
                folder / f"eval_{split}_epoch5", part(own, rows), labels, info={**info, "split": split}
            )
        folders.append(folder / "eval_eval_epoch5")
    return folders


@pytest.fixture
def run(tmp_path):
    """A function that combines members and gives the table and the evaluation."""

    def run(members, **settings):
        members = [{"path": str(member)} if isinstance(member, Path) else member for member in members]
        settings = {"members": members, "evaluation": {"bootstrap": 20}, **settings}
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        ensemble = load_config(None, overrides, Ensemble)
        sources, dest = find_members(ensemble), tmp_path / "dest"
        places = find_scores(ensemble, sources, tmp_path / "no data", dest, None)
        table = [combine_split(split, ensemble, sources, places, dest) for split in ensemble.splits][-1]
        newest = max(dest.glob("eval_*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
        return table, read_evaluation(newest.parent)

    return run


def test_the_result_is_an_evaluation_of_the_mean(three, run):
    table, evaluation = run(three)
    members = [Scores.load(folder / "scores.npz") for folder in three]
    found = evaluation.scores()
    assert found.ids == members[0].ids
    np.testing.assert_allclose(found.logits, mix([one.logits for one in members], [1, 1, 1]), rtol=1e-6)
    assert evaluation.folder.name == "eval_eval_ensemble3"
    assert evaluation.metrics == compute_metrics(found.logits, found.labels).summary
    assert evaluation.intervals.keys() >= {"mAP", "mAUC", "f1_micro", "exact_match", "mAP_micro"}
    assert [one.mid for one in evaluation.classes] == [f"/m/{index:03d}" for index in range(5)]
    assert evaluation.info["weights_in_words"] == "mean of the probabilities of 3 members, all alike"
    # The mean is better than the best of three noisy views of the same.
    best = max(compute_metrics(one.logits, one.labels).summary["mAP"] for one in members)
    assert evaluation.metrics["mAP"] > best
    lines = table.splitlines()
    assert lines[0].split()[:3] == ["member", "weight", "mAP"] and "95 % interval of mAP" in lines[0]
    assert [line.split()[0] for line in lines[2:6]] == [*map(str, three), "ensemble"]
    assert [line.split()[1] for line in lines[2:6]] == ["0.3333"] * 3 + ["-"]
    assert f"{evaluation.metrics['mAP']:.4f}" in lines[5]
    assert lines[6].startswith(f"mAP of the ensemble less that of its best member ({three[0]}): +0.")
    assert "95 % interval" in lines[6]


def test_the_markdown_beside_it_says_the_same(three, run):
    _, evaluation = run(three)
    text = (evaluation.folder / "members.md").read_text()
    assert text == describe_ensemble(evaluation.info["ensemble"]) + "\n"
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["member", "---", *map(str, three), "ensemble"]
    for row, folder in zip(rows[2:], [*three, evaluation.folder], strict=True):
        assert row[2] == f"{read_evaluation(folder).metrics['mAP']:.4f}"


def test_without_resamplings_there_are_no_intervals(three, run):
    table, evaluation = run(three, evaluation={"bootstrap": 0})
    assert "interval" not in table and not evaluation.intervals


def test_members_may_have_any_order_of_clips_and_classes(tmp_path, three, run, make_labels):
    _, straight = run(three)
    scores, labels = Scores.load(three[1] / "scores.npz"), make_labels(5)
    rows, columns = np.random.default_rng(0).permutation(50), [2, 0, 4, 3, 1]
    turned = Scores([scores.ids[row] for row in rows], *(
        values[rows][:, columns] for values in (scores.logits, scores.labels)
    ))  # fmt: skip
    names = [Label(at, labels[column].mid, labels[column].name) for at, column in enumerate(columns)]
    write_evaluation(tmp_path / "turned", turned, LabelTable(names), info={})
    _, other = run([three[0], tmp_path / "turned", three[2] / "scores.npz"])
    assert other.scores().ids == straight.scores().ids
    np.testing.assert_array_equal(other.scores().logits, straight.scores().logits)


def test_other_clips_are_named_and_refused_or_left_out(tmp_path, three, run, caplog):
    fewer = part(Scores.load(three[1] / "scores.npz"), range(2, 50))
    (tmp_path / "few").mkdir()
    fewer.save(tmp_path / "few" / "scores.npz")
    (tmp_path / "few" / "per_class.csv").write_bytes((three[1] / "per_class.csv").read_bytes())
    with pytest.raises(DataError, match=r"few lacks 2 clips that another has, such as -clip_0 \(48 clips"):
        run([three[0], tmp_path / "few"])
    _, evaluation = run([three[0], tmp_path / "few"], common=True)
    assert evaluation.scores().ids == fewer.ids
    assert f"48 of 50 clips of {three[0]} are in all members" in caplog.text
    # How many of the listed clips are present is not known of these.
    assert "coverage" in run([three[0]])[1].info and "coverage" not in evaluation.info


def test_labels_that_differ_are_refused(tmp_path, three, run, make_labels):
    scores = Scores.load(three[1] / "scores.npz")
    scores.labels[3, 1] = 1 - scores.labels[3, 1]
    write_evaluation(tmp_path / "other", scores, make_labels(5), info={})
    with pytest.raises(DataError, match="different labels for 1 clips, among them -clip_3"):
        run([three[0], tmp_path / "other"])


def test_classes_of_bare_score_files(tmp_path, three, run, make_labels, caplog):
    bare = []
    for number, folder in enumerate(three[:2]):
        bare.append(tmp_path / f"{number}.npz")
        Scores.load(folder / "scores.npz").save(bare[-1])
    _, evaluation = run(bare)
    assert [one.mid for one in evaluation.classes] == [f"class_{index}" for index in range(5)]
    assert "no member says which classes its scores are of" in caplog.text
    with pytest.raises(DataError, match=r"0\.npz does not say which classes its scores are of, and"):
        run([three[1], bare[0]])
    make_labels(5).write(tmp_path / "labels.csv")
    _, evaluation = run([three[1], bare[0]], labels=str(tmp_path / "labels.csv"))
    assert [one.name for one in evaluation.classes] == make_labels(5).names
    make_labels(4).write(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="has scores of 5 classes, but the label list has 4"):
        run(bare, labels=str(tmp_path / "labels.csv"))


def test_weights_as_given_and_the_mean_of_logits(three, run):
    _, evaluation = run(three, member_weights=[2, 1, 1], combine="logits")
    assert evaluation.folder.name == "eval_eval_ensemble3-logits-weighted"
    members = [Scores.load(folder / "scores.npz").logits for folder in three]
    np.testing.assert_array_equal(evaluation.scores().logits, mix(members, [0.5, 0.25, 0.25], "logits"))
    parts = evaluation.info["ensemble"]["parts"]
    assert [one["weight"] for one in parts] == [0.5, 0.25, 0.25, None]


@pytest.mark.parametrize("fit", ["loss", "mAP"])
def test_weights_are_fitted_on_the_valid_beside(three, run, fit):
    _, evaluation = run(three, member_weights="fitted", fit=fit)
    assert evaluation.folder.name == f"eval_eval_ensemble3-fitted-{fit}"
    assert evaluation.info["weights_in_words"].endswith(f"weights fitted on 30 clips of valid (best {fit})")
    assert evaluation.info["selected_on"] == "valid"
    valid = [Scores.load(folder.with_name("eval_valid_epoch5") / "scores.npz") for folder in three]

    def fitted(evaluation, on):
        weights = [one["weight"] for one in evaluation.info["ensemble"]["parts"][:-1]]
        expected = fit_weights([one.logits for one in on], valid[0].labels.astype(np.float32), fit=fit)
        np.testing.assert_allclose(weights, expected, atol=1e-9)

    fitted(evaluation, valid)
    # With a member's valid named, that one counts: here the third one's.
    swapped = {"path": str(three[0]), "valid_scores": str(three[2].with_name("eval_valid_epoch5"))}
    _, other = run([swapped, three[1]], member_weights="fitted", fit=fit)
    fitted(other, [valid[2], valid[1]])


def test_weights_fitted_on_the_evaluation_clips_are_refused(three, run):
    on_eval = [{"path": str(folder), "valid_scores": str(folder / "scores.npz")} for folder in three]
    for folder in three:  # as in a recipe whose valid is its eval
        info = json.loads((folder / "metrics.json").read_text())
        info["info"].pop("split")
        del info["checksum"]
        (folder / "metrics.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="50 of 50 clips that the ensemble is measured on, such as -clip_0"):
        run(on_eval, member_weights="fitted")
    with pytest.raises(ConfigError, match="splits has valid, on which member_weights: fitted are fitted"):
        run(three, member_weights="fitted", splits=["eval", "valid"])
    with pytest.raises(DataError, match="1 of 3 clips"):
        check_other_clips(["a", "b"], ["b", "c", "d"])
    check_other_clips(["a"], ["b"])


def test_both_splits_are_combined_and_thresholds_go_from_valid_to_eval(three, run):
    _, evaluation = run(three, splits=["valid", "eval"])
    assert evaluation.split == "eval" and "f1_micro_tuned" in evaluation.metrics
    assert read_evaluation(evaluation.folder.with_name("eval_valid_ensemble3")).metrics["num_clips"] == 30


def test_scores_of_another_split_are_refused(three, run):
    valid = three[1].with_name("eval_valid_epoch5")
    with pytest.raises(DataError, match="epoch5 has the scores of valid, but eval is to be combined"):
        run([three[0], valid])
    with pytest.raises(DataError, match="has the scores of valid, not of eval"):
        read_member("x", valid, "eval")


def test_what_lies_beside_must_be_there_and_of_the_same_weights(three):
    folder = three[0]
    assert (
        beside(folder, "valid")
        == beside(folder / "scores.npz", "valid")
        == folder.with_name("eval_valid_epoch5")
    )
    path = folder.with_name("eval_valid_epoch5") / "metrics.json"
    content = json.loads(path.read_text())
    content["info"]["sha256"] = {"epoch-5.pt": "another"}
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="is of other weights than"):
        beside(folder, "valid")
    path.unlink()
    with pytest.raises(DataError, match=r"there are no scores of valid beside .* the member's valid_scores"):
        beside(folder, "valid")


@pytest.mark.parametrize("numbers", [[1.0], [0, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_that_are_none(numbers):
    with pytest.raises(ConfigError, match="expected 2 numbers from 0 on, not all 0"):
        given_weights(numbers, 2)


def test_where_an_ensemble_comes_from(three, run, tmp_path):
    _, evaluation = run(three)
    info = evaluation.info
    files = [str(tmp_path / f"run{seed}" / "epoch-5.pt") for seed in range(3)]
    assert info["checkpoints"] == files
    assert info["sha256"] == {file: f"{seed}" for seed, file in enumerate(files)}
    assert (info["precision"], info["selected_on"]) == ("float32", "valid")
    assert [one.get("scores") for one in info["ensemble"]["parts"]] == [*map(str, three), None]
    members = [read_member("a", folder, "eval") for folder in three]
    members[0].info.update(selected_on="eval", precision="bf16")
    assert merged_info(members)["selected_on"] == "eval" and "precision" not in merged_info(members)


def test_an_ensemble_may_be_a_member(three, run):
    _, inner = run(three[:2])
    _, outer = run([inner.folder, three[2]], member_weights=[2, 1])
    _, flat = run(three)
    np.testing.assert_allclose(outer.scores().logits, flat.scores().logits, rtol=1e-5, atol=1e-6)
    assert outer.info["checkpoints"] == flat.info["checkpoints"]


def test_the_same_again_changes_nothing(three, run):
    _, first = run(three, member_weights="fitted")
    content, table = (first.folder / "scores.npz").read_bytes(), first.classes
    _, second = run(three, member_weights="fitted")
    assert (second.folder / "scores.npz").read_bytes() == content
    assert [str(one) for one in second.classes] == [str(one) for one in table]
    assert second.intervals == first.intervals and second.info["ensemble"] == first.info["ensemble"]
