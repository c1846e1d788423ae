"""When the data are too far from what a model normalises by, and when they are not."""

from __future__ import annotations

import pytest

from audiotag.data.normalization import fits, warn_of_foreign_normalization
from audiotag.frontend import Frontend


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (-4.0, 2.0, True),
        (-4.99, 2.0, True),
        (-3.01, 2.0, True),
        (-5.01, 2.0, False),
        (-2.99, 2.0, False),
        (-4.0, 1.61, True),
        (-4.0, 2.49, True),
        (-4.0, 1.59, False),
        (-4.0, 2.51, False),
    ],
)
def test_limits(mean, std, expected):
    assert fits(mean, std, {"mean": -4.0, "std": 2.0}) is expected


def test_silence_fits_nothing_and_breaks_nothing():
    assert not fits(-4.0, 2.0, {"mean": -15.9, "std": 0.0})


def warnings(caplog, frontend, coverage, split="train"):
    caplog.clear()
    warn_of_foreign_normalization(frontend, coverage, split)
    return [record.getMessage() for record in caplog.records]


def test_the_warning_has_both_pairs_of_numbers_and_what_to_do(caplog):
    coverage = {"train": {"features": {"mean": -9.25, "std": 3.5}}}
    [line] = warnings(caplog, Frontend("ast128"), coverage)
    for part in (
        "features of train have mean -9.25 and standard deviation 3.5",
        "mean -4.268 and standard deviation 4.569",
        "padded rows included",
        "features.normalization: corpus",
    ):
        assert part in line
    assert "\n" not in line
    [line] = warnings(caplog, Frontend("beats128"), coverage)
    assert "padded" not in line


def test_no_warning_where_nothing_disagrees_or_nothing_is_known(caplog):
    near = {"train": {"features": {"mean": -4.0, "std": 4.0}}}
    far = {"train": {"features": {"mean": -9.25, "std": 3.5}}, "notes": {"task": "single-label"}}
    assert not warnings(caplog, Frontend("ast128"), near)
    assert not warnings(caplog, Frontend("ast128", mean=-9.25, std=3.5), far)
    assert not warnings(caplog, Frontend("ast128", normalize=False), far)
    assert not warnings(caplog, Frontend("icefall80"), far)
    assert not warnings(caplog, Frontend("ast128"), {"train": {}})
    assert not warnings(caplog, Frontend("ast128"), far, "eval")
    assert not warnings(caplog, Frontend("ast128"), {})
