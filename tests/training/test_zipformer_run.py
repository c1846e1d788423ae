"""A real Zipformer under the training command: resumed inside an epoch, alone and with two processes."""

from __future__ import annotations

import shutil

import pytest

from audiotag.training.checkpoint import load_checkpoint
from tests.training.processes import Run, assert_same_run
from tests.training.test_train_command import points

CONFIG = """
include: config.yaml
features: {preset: icefall80, target_frames: null, storage: on_the_fly}
encoder:
  name: zipformer
  num_encoder_layers: 1
  downsampling_factor: [1, 2]
  encoder_dim: [16, 24]
  encoder_unmasked_dim: [12, 16]
  num_heads: 2
  query_head_dim: 8
  pos_head_dim: 2
  value_head_dim: 4
  feedforward_dim: 32
  cnn_module_kernel: 7
  pos_dim: 16
data: {batch_size: 3, num_workers: 1}
loss: {name: bce, reduction: sum}
optimizer: {name: scaled_adam, clipping_update_period: 5}
schedule: {name: eden, lr_batches: 10, lr_epochs: 1.5, warmup_steps: 4}
augment:
  time_warp: {per: clip, window: 20}
  masks: {name: zipformer}
training:
  epochs: 2
  accumulate: 2
  log_every: 2
  clip_norm: null
  ref_duration_s: 0.01     # batch counts of thousands: schedules move
  save_every_steps: 1
  keep_last_steps: 50
  running_average: {period: 2}
"""


def train(recipe, name, processes, *options):
    arguments = ("--config", "zipformer_run.yaml", "--exp-dir", f"exp/{name}", *options)
    run = Run(recipe, *arguments, processes=processes)
    assert run.wait() == 0, run.output
    return run.output


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "step", "amp"), [(1, 5, "off"), (1, 5, "bf16"), (2, 2, "off")])
def test_a_resumed_run_ends_with_the_same_bits(recipe, processes, step, amp):
    (recipe.folder / "zipformer_run.yaml").write_text(CONFIG)
    precision = ("--set", f"training.amp={amp}")
    name = f"zipformer-run-{processes}-{amp}"
    train(recipe, name, processes, *precision)
    whole, folder = recipe.exp(name), recipe.exp(f"{name}-from{step}")
    folder.mkdir()
    shutil.copy(whole / f"step-{step}.pt", folder)
    shutil.copytree(whole / "tensorboard", folder / "tensorboard")
    assert f"step-{step}.pt" in train(recipe, folder.name, processes, *precision)
    assert_same_run(whole, folder, "epoch-2.pt")
    states = [load_checkpoint(path / "epoch-2.pt")["encoder_training"] for path in (whole, folder)]
    assert len(states[0]) == processes
    for one, other in zip(*states, strict=True):
        assert one.keys() == other.keys()
        assert all(str(one[key]) == str(other[key]) for key in one)
    counts = [value for _, value in points(whole, "train/batch_count")]
    assert counts == sorted(counts) and counts[-1] > 4000
