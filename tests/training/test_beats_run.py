"""A real BEATs under the training command: layers left out, parts not trained, alone and in two processes."""

from __future__ import annotations

import shutil

import pytest
import torch

from audiotag.training.checkpoint import load_checkpoint
from tests.training.processes import Run, assert_same_run

CONFIG = """
include: config.yaml
features: {preset: beats128, target_frames: null, storage: on_the_fly}
encoder:
  name: beats
  patch_dim: 16
  embed_dim: 24
  depth: 4
  num_heads: 2
  feedforward_dim: 32
  conv_kernel: 8
  conv_groups: 4
  num_buckets: 32
  max_distance: 64
  dropout: 0.1
  layer_drop: 0.4
  gradient_decay: 0.5
data: {batch_size: 3, num_workers: 1}
optimizer: {name: adamw, lr: 1.0e-3, betas: [0.9, 0.98], decay_all: true}
augment:
  mixup: {"on": waveform, probability: 1.0, alpha: 0.8, partner: batch, remove_mean: false}
  roll: {interval_s: 1.0}
  time_warp: {per: batch, probability: 1.0, window: 5}
  masks: {name: beats}
training:
  epochs: 2
  accumulate: 2
  log_every: 2
  save_every_steps: 1
  keep_last_steps: 50
"""


def train(recipe, name, *overrides, processes=1):
    (recipe.folder / "beats_run.yaml").write_text(CONFIG)
    settings = [word for override in overrides for word in ("--set", override)]
    arguments = ("--config", "beats_run.yaml", "--exp-dir", f"exp/{name}", *settings)
    run = Run(recipe, *arguments, processes=processes)
    assert run.wait() == 0, run.output
    return run.output


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "step"), [(1, 3), (2, 2)])
def test_a_resumed_run_ends_with_the_same_bits(recipe, processes, step):
    name = f"beats-run-{processes}"
    train(recipe, name, processes=processes)
    whole, folder = recipe.exp(name), recipe.exp(f"{name}-from{step}")
    folder.mkdir()
    shutil.copy(whole / f"step-{step}.pt", folder)
    shutil.copytree(whole / "tensorboard", folder / "tensorboard")
    assert f"step-{step}.pt" in train(recipe, folder.name, processes=processes)
    assert_same_run(whole, folder, "epoch-2.pt")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_last_layer_only_is_trained(recipe, processes):
    name = f"beats-last-{processes}"
    train(recipe, name, "encoder.last_layer_only=true", "encoder.layer_drop=0", processes=processes)
    first, last = (
        load_checkpoint(recipe.exp(name) / f"{step}.pt")["model"] for step in ("step-1", "epoch-2")
    )
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert {name.rsplit(".", 1)[0] for name in changed if ".layers.3." not in name} == {
        "head",
        "encoder.relative_attention_bias",
    }
    assert any(".layers.3." in name for name in changed)
