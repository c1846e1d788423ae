"""A model to start from: missed before anything is prepared, not by what is trained, noticed if changed."""

from __future__ import annotations

import os
import re

import pytest
import torch

from tests.interop.asts import random_deit

CONFIG = """
corpus: {train_lists: [train_segments.csv], eval_lists: [eval_segments.csv], valid_share: 0.2}
features: {target_frames: 64, storage: on_the_fly}
encoder: {embed_dim: 8, depth: 2, num_heads: 2, freq_stride: 16, time_stride: 16}
init: {model: $DEIT_CHECKPOINT}
data: {batch_size: 8, num_workers: 0}
training: {epochs: 1}
"""
# The times of a file that was made long ago, as downloads may bear them.
LONG_AGO = (10**9, 10**9)


def started(done):
    return re.findall(r"\[stage (\d): \w+\] started", done.stdout)


@pytest.mark.slow
def test_the_model_to_start_from(tree, drive, tmp_path):
    (tree / "egs/mini/conf/small.yaml").write_text(CONFIG)
    config = ("--config", "conf/small.yaml")
    train = (*config, "--stage", "5", "--stop-stage", "5")
    file = tmp_path / "deit weights.pth"
    here = {"DEIT_CHECKPOINT": str(file)}

    unset = drive(*config)
    assert unset.returncode == 2
    assert (
        "init.model is $DEIT_CHECKPOINT, but DEIT_CHECKPOINT is not set: write it into db.sh" in unset.stderr
    )
    assert started(unset) == ["0"]
    gone = drive(*config, env=here)
    assert gone.returncode == 4
    assert f"there is no file or folder {file}" in gone.stderr
    assert started(gone) == []
    # Who only prepares does not need it.
    assert drive(*config, "--stop-stage", "4").returncode == 0
    assert drive(*train).returncode == 2

    torch.save(random_deit(14), file)
    trained = drive(*train, env=here)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    log = (tree / "egs/mini/exp/small/log/stage5.log").read_text()
    assert "position embedding from 14 x 14 to 8 x 4 patches" in log
    # What is trained does not need it any more, whether its variable is unset or the file gone.
    assert "already done" in drive(*train).stdout
    assert "already done" in drive(*train, env=here).stdout
    content = file.read_bytes()
    file.unlink()
    assert "already done" in drive(*train, env=here).stdout

    # Come again, the same: training looks, and has nothing to do.
    file.write_bytes(content)
    os.utime(file, LONG_AGO)
    same = drive(*train, env=here)
    assert started(same) == ["5"]
    assert same.returncode == 0, same.stdout + same.stderr
    torch.save(random_deit(24), file)
    os.utime(file, LONG_AGO)
    other = drive(*train, env=here)
    assert other.returncode == 2
    assert "deit weights.pth is no longer what the run started from" in other.stderr
