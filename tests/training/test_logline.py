"""The log line: what is in it, and what is left out while there is nothing to say."""

from __future__ import annotations

import math

from audiotag.training.logline import format_log

VALUES = {
    "train/loss": 0.123456,
    "train/grad_norm": 2.34567,
    "train/clips": 4800.0,
    "train/clips_per_s": 98.765,
    "train/data_wait": 0.034,
    "train/replaced_clips": 0.0,
    "train/skipped_updates": 0.0,
    "train/memory_mib": 12345.6,
    "train/lr": 1e-4,
}


def test_a_line_of_what_is_always_there():
    assert format_log(3, 120, VALUES) == (
        "epoch 3 update 120: loss 0.1235, lr 0.0001, grad norm 2.35, 98.8 clips/s, waiting for data 3 %, "
        "memory 12,346 MiB"
    )


def test_a_line_of_all_there_is():
    line = format_log(
        1,
        2,
        VALUES
        | {"train/mfu": 0.4123, "train/scale": 65536.0}
        | {"train/skipped_updates": 1.0, "train/replaced_clips": 1200.0}
        | {"lr/encoder.0/decay": 1e-6, "lr/head/decay": 1e-3},
    )
    assert line == (
        "epoch 1 update 2: loss 0.1235, lr 1e-06 to 0.001, grad norm 2.35, scale 65536, 98.8 clips/s, "
        "waiting for data 3 %, MFU 41.2 %, memory 12,346 MiB, 1 update skipped, 1,200 clips replaced"
    )


def test_groups_with_one_rate_show_one():
    rates = {"lr/encoder/decay": 1e-4, "lr/encoder/no_decay": 1e-4}
    assert "lr 0.0001, grad" in format_log(1, 1, VALUES | rates)


def test_values_that_are_not_finite_or_missing():
    assert format_log(1, 1, {"train/loss": math.nan, "train/grad_norm": math.inf}) == (
        "epoch 1 update 1: loss nan, grad norm inf"
    )
