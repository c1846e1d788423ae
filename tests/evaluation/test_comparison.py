"""Comparing systems: what is matched, what is refused, and what chance explains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiotag.errors import DataError
from audiotag.evaluation.comparison import System, align, compare, read_system
from audiotag.evaluation.comparisontext import describe
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.results import read_evaluation, write_evaluation
from audiotag.evaluation.scores import Scores
from audiotag.labels import Label, LabelTable

ROOT = Path(__file__).resolve().parents[2]


def noisy(scores: Scores, amount: float, seed: int = 1) -> Scores:
    """The same clips scored worse."""
    noise = np.random.default_rng(seed).standard_normal(scores.logits.shape)
    return Scores(scores.ids, scores.logits + amount * noise, scores.labels)


def test_clips_are_matched_by_id_and_classes_by_mid(tmp_path, make_scores, make_labels):
    scores, labels = make_scores(40, 4), make_labels(4)
    write_evaluation(tmp_path / "a", scores, labels, info={})
    rows, columns = np.random.default_rng(0).permutation(40), [2, 0, 3, 1]
    turned = Scores(
        [scores.ids[row] for row in rows], scores.logits[rows][:, columns], scores.labels[rows][:, columns]
    )
    names = [Label(at, labels[column].mid, labels[column].name) for at, column in enumerate(columns)]
    write_evaluation(tmp_path / "b", turned, LabelTable(names), info={})
    aligned = align([read_system(tmp_path / "a"), read_system(tmp_path / "b" / "scores.npz")])
    assert (aligned.ids, aligned.class_names) == (scores.ids, labels.names)
    np.testing.assert_array_equal(aligned.logits[0], scores.logits)
    np.testing.assert_array_equal(aligned.logits[1], scores.logits)
    np.testing.assert_array_equal(aligned.labels, scores.labels)
    [same] = compare(aligned, 50)
    assert all(difference[:4] == (0.0, 0.0, 0.0, 1.0) for difference in same.differences.values())


def test_other_clips_are_refused_unless_the_common_ones_are_asked_for(make_scores):
    scores = make_scores(10, 3)
    fewer = Scores(scores.ids[2:], scores.logits[2:], scores.labels[2:])
    systems = [System("a", scores, None), System("b", fewer, None)]
    with pytest.raises(DataError, match=r"b lacks 2 clips that another has, such as -clip_0 \(8 clips are"):
        align(systems)
    with pytest.raises(DataError, match="b lacks 2 clips"):
        align(systems[::-1])
    assert align(systems, common=True).ids == scores.ids[2:]
    apart = Scores(["x"], np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(DataError, match="a and c have no clips in common"):
        align([systems[0], System("c", apart, None)], common=True)


def test_other_classes_are_refused_unless_the_common_ones_are_asked_for(make_scores):
    scores = make_scores(10, 3)
    fewer = Scores(scores.ids, scores.logits[:, 1:], scores.labels[:, 1:])
    known = {"/m/0": "A", "/m/1": "B", "/m/2": "C"}
    systems = [System("a", scores, known), System("b", fewer, {"/m/1": "B", "/m/2": "C"})]
    with pytest.raises(DataError, match="b lacks 1 classes that another has, such as /m/0"):
        align(systems)
    aligned = align(systems, common=True)
    assert aligned.class_names == ["B", "C"]
    np.testing.assert_array_equal(aligned.logits[0], aligned.logits[1])
    with pytest.raises(DataError, match=r"a has 3 classes and b 2: without a per_class\.csv"):
        align([systems[0], System("b", fewer, None)])


def test_labels_must_agree_where_both_are_known(make_scores):
    scores = make_scores(5, 3)
    other = Scores(scores.ids, scores.logits, np.where(np.eye(5, 3, -1), np.nan, scores.labels))
    labels = align([System("a", scores, None), System("b", other, None)]).labels
    np.testing.assert_array_equal(np.isnan(labels), np.eye(5, 3, -1))
    other.labels[3, 0] = 1 - other.labels[3, 0]
    with pytest.raises(DataError, match=r"a and b have different labels for 1 clips.*-clip_3 \(class 0\)"):
        align([System("a", scores, None), System("b", other, None)])


def test_a_real_difference_is_found_and_a_small_one_is_not(make_scores):
    scores = make_scores(300, 6)
    systems = [System(name, one, None) for name, one in (
        ("good", scores), ("bad", noisy(scores, 3.0)), ("alike", noisy(scores, 0.02)))]  # fmt: skip
    aligned = align(systems)
    worse, alike = compare(aligned, 300)
    expected = compute_metrics(systems[1].scores.logits, scores.labels).summary
    first = compute_metrics(scores.logits, scores.labels).summary
    for name, difference in worse.differences.items():
        assert difference.value == pytest.approx(expected[name] - first[name]), name
    for name in ("mAP", "mAUC", "lwlrap", "f1_micro"):
        assert worse.differences[name].high < 0
        assert worse.differences[name].p_value < 0.01
    assert worse.differences["loss"].low > 0
    assert alike.differences["mAP"].low < 0 < alike.differences["mAP"].high
    assert alike.differences["mAP"].p_value > 0.05
    # Paired: the interval of the difference is far narrower than that of either system would make it.
    width = alike.differences["mAP"].high - alike.differences["mAP"].low
    assert width < 0.3 * (worse.differences["mAP"].high - worse.differences["mAP"].low)

    text = describe(aligned, [worse, alike], 300)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.split("## B is alike")[0].splitlines()}
    assert rows["mAP"].endswith("| A |")
    assert rows["loss"].endswith("| A |")
    assert "AP of 5 classes: B is higher in 0, A in 5, equal in 0" in text
    assert "300 clips, 6 classes, 300 paired resamplings" in text
    assert np.isnan(worse.class_differences[5].value)


def test_nothing_is_claimed_of_classes_with_few_positives():
    random = np.random.default_rng(3)
    labels = np.zeros((400, 20), np.uint8)
    labels[np.arange(20), np.arange(20)] = 1  # one clip each
    labels[20:60, 0] = 1  # one class has more
    ids = [f"clip{index}" for index in range(400)]
    systems = [
        System(name, Scores(ids, random.standard_normal(labels.shape).astype(np.float32), labels), None)
        for name in ("a", "b")
    ]
    aligned = align(systems)
    text = describe(aligned, compare(aligned, 200), 200)
    assert "Of the 1 classes with 10 positives or more, the class's own 95 % interval" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| class ")]
    assert [row[-1] == "-" for row in rows if len(row) == 6][1:] == [row[1] == "1" for row in rows[1:]]


def test_classes_that_changed_places_after_the_evaluation_are_noticed(tmp_path, make_scores, make_labels):
    write_evaluation(tmp_path / "a", make_scores(10, 3), make_labels(3), info={})
    table = tmp_path / "a" / "per_class.csv"
    first, second, _ = (label.mid for label in make_labels(3))
    text = table.read_text()
    table.write_text(text.replace(first, "/m/x").replace(second, first).replace("/m/x", second))
    for path in (tmp_path / "a", tmp_path / "a" / "scores.npz"):
        with pytest.raises(DataError, match=r"per_class\.csv was changed after it was written"):
            read_system(path)
    (tmp_path / "a" / "metrics.json").unlink()  # a table that nobody vouches for is believed
    assert list(read_system(tmp_path / "a").classes)[:2] == [second, first]


def run_compare(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "audiotag.bin.compare", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_the_command(tmp_path, make_scores, make_labels):
    scores = make_scores(60, 4)
    write_evaluation(tmp_path / "a", scores, make_labels(4), info={})
    write_evaluation(tmp_path / "b", noisy(scores, 2.0), make_labels(4), info={})
    done = run_compare("a", "b/scores.npz", "--bootstrap", "50", "--output", "out/c.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| Siren, two-tone |" in done.stdout
    assert (tmp_path / "out" / "c.md").read_text() == done.stdout
    assert run_compare("a", "b", "--bootstrap", "50", cwd=tmp_path).stdout == done.stdout.replace(
        "b/scores.npz", "b"
    )
    alone = run_compare("a", cwd=tmp_path)
    assert alone.returncode == 2
    assert alone.stderr.strip().startswith("error: compare needs two or more")
    lacking = run_compare("a", "none.npz", cwd=tmp_path)
    assert "score file not found: none.npz" in lacking.stderr


@pytest.mark.slow
def test_classes_without_positives_count_as_in_the_evaluations(tmp_path, make_scores, make_labels):
    scores = make_scores(60, 4)  # the last class has no positives
    expected = {}
    for zero in (True, False):
        for name, one in (("a", scores), ("b", noisy(scores, 2.0))):
            folder = tmp_path / f"{name}-{zero}"
            write_evaluation(folder, one, make_labels(4), info={}, zero_without_positives=zero)
            expected[folder.name] = f"{read_evaluation(folder).metrics['mAP']:.4f}"
    noisy(scores, 2.0).save(tmp_path / "plain.npz")

    def values(*arguments: str) -> list[str]:
        done = run_compare(*arguments, "--bootstrap", "20", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("count as AP 0" in done.stdout) == (expected["a-True"] in done.stdout)
        [row] = [line for line in done.stdout.splitlines() if line.startswith("| mAP |")]
        return row.split(" | ")[1:3]

    assert expected["a-True"] != expected["a-False"]
    for zero in (True, False):
        of_folders = [expected[f"a-{zero}"], expected[f"b-{zero}"]]
        assert values(f"a-{zero}", f"b-{zero}") == of_folders
        assert values(f"a-{zero}/scores.npz", "plain.npz") == of_folders
        flag = "--zero-without-positives" if zero else "--no-zero-without-positives"
        assert values("a-True", "b-False", flag) == of_folders
        assert values(f"a-{not zero}", f"b-{not zero}", flag) == of_folders
    done = run_compare("a-False", "b-True", cwd=tmp_path)
    assert done.returncode == 2
    assert "b-True counts classes without positives as AP 0 in mAP, a-False leaves them out" in done.stderr


def test_a_class_table_of_other_scores_is_refused(tmp_path, make_scores, make_labels):
    write_evaluation(tmp_path / "a", make_scores(9, 4), make_labels(4), info={})
    make_scores(9, 3).save(tmp_path / "a" / "scores.npz")
    with pytest.raises(DataError, match=r"per_class\.csv has 4 classes, but the scores beside it 3"):
        read_system(tmp_path / "a")
