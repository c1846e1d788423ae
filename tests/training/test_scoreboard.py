"""The best checkpoints by a metric, and when nothing gets better any more."""

from __future__ import annotations

import pytest

from audiotag.training.scoreboard import Scoreboard


def board(metric="mAP", values=(), **settings):
    scoreboard = Scoreboard(metric, **settings)
    for number, value in enumerate(values, start=1):
        scoreboard.note(value, file=f"epoch-{number}.pt", epoch=number, step=10 * number)
    return scoreboard


@pytest.mark.parametrize(
    ("metric", "values", "ranking"),
    [("mAP", (0.1, 0.3, 0.2), [2, 3, 1]), ("loss", (0.1, 0.3, 0.2), [1, 3, 2])],
)
def test_the_ranking_knows_what_is_better(metric, values, ranking):
    scoreboard = board(metric, values)
    assert scoreboard.ranking() == [f"epoch-{number}.pt" for number in ranking]
    assert scoreboard.best["file"] == scoreboard.ranking()[0]
    assert scoreboard.best["metric"] == metric


def test_of_equal_values_the_first_is_best():
    assert board(values=(0.5, 0.5)).best["epoch"] == 1
    assert board(values=(0.5, 0.5)).ranking() == ["epoch-1.pt", "epoch-2.pt"]


def test_what_is_hardly_better_does_not_count():
    scoreboard = board(values=(0.5, 0.505, 0.515), min_delta=0.01)
    assert scoreboard.without_improvement() == 0
    scoreboard = board(values=(0.5, 0.505, 0.509), min_delta=0.01)
    assert scoreboard.without_improvement() == 2
    # The best is the best all the same.
    assert scoreboard.best["epoch"] == 3
    assert scoreboard.ranking() == ["epoch-3.pt", "epoch-2.pt", "epoch-1.pt"]


def test_validations_without_improvement_are_counted_from_the_best():
    assert board(values=()).without_improvement() == 0
    assert board(values=(0.1, 0.2)).without_improvement() == 0
    assert board(values=(0.3, 0.2, 0.1)).without_improvement() == 2


def test_a_metric_that_does_not_exist_changes_nothing():
    scoreboard = board(values=(None, 0.2, None))
    assert scoreboard.best["epoch"] == 2
    assert len(scoreboard.validations) == 1


def test_it_goes_on_from_what_a_checkpoint_holds():
    before = board(values=(0.3, 0.2))
    after = Scoreboard("mAP")
    after.restore({"best": before.best, "validations": list(before.validations)})
    for scoreboard in (before, after):
        scoreboard.note(0.25, file="epoch-3.pt", epoch=3, step=30)
    assert after.best == before.best
    assert after.ranking() == before.ranking() == ["epoch-1.pt", "epoch-3.pt", "epoch-2.pt"]
    assert after.without_improvement() == 2


def test_checkpoints_of_the_first_version_know_the_best_epoch_only():
    scoreboard = Scoreboard("mAP")
    scoreboard.restore({"best": {"epoch": 3, "metric": "mAP", "value": 0.4}})
    assert scoreboard.ranking() == ["epoch-3.pt"]
    scoreboard.note(0.3, file="epoch-5.pt", epoch=5, step=50)
    assert scoreboard.best["epoch"] == 3
    scoreboard.note(0.5, file="epoch-6.pt", epoch=6, step=60)
    assert scoreboard.best["file"] == "epoch-6.pt"
