"""Training as the Zipformer's recipe has it, resumed inside an epoch, with a stand-in for its encoder."""

from __future__ import annotations

import shutil

import pytest

from audiotag.training.checkpoint import load_checkpoint
from tests.training.processes import Run, assert_same_run, raw_points

# 36 clips in base batches of 3: six updates an epoch alone, three with two processes.
CONFIG = """
include: config.yaml
data: {batch_size: 3, num_workers: 1}
loss: {name: bce, reduction: sum}
optimizer: {name: scaled_adam, clipping_update_period: 5, size_update_period: 3}
schedule: {name: eden, lr_batches: 10, lr_epochs: 1.5, warmup_steps: 4}
training:
  epochs: 3
  accumulate: 2
  log_every: 2
  clip_norm: null
  ref_duration_s: 3.0
  save_every_steps: 1
  keep_last_steps: 50
  running_average: {period: 2}
  freeze: [{modules: [encoder.blocks.0], epochs: 1}]
"""


@pytest.fixture(scope="module")
def whole(recipe):
    """Undisturbed runs, by number of processes."""
    (recipe.folder / "zipformer.yaml").write_text(CONFIG)
    folders = {}
    for processes in (1, 2):
        folders[processes] = recipe.exp(f"zipformer{processes}")
        train(recipe, folders[processes], processes)
    return folders


def train(recipe, folder, processes, *options):
    run = Run(
        recipe,
        "--config",
        "zipformer.yaml",
        "--exp-dir",
        str(folder),
        *options,
        processes=processes,
        module="tests.training.standin",
    )
    assert run.wait() == 0, run.output
    return run.output


@pytest.mark.parametrize(("processes", "step"), [(1, 3), (1, 11), (2, 4)])
def test_a_resumed_run_ends_with_the_same_bits(recipe, whole, processes, step):
    folder = recipe.exp(f"zipformer{processes}-from{step}")
    folder.mkdir()
    shutil.copy(whole[processes] / f"step-{step}.pt", folder)
    shutil.copytree(whole[processes] / "tensorboard", folder / "tensorboard")
    assert f"resuming from {folder}/step-{step}.pt" in train(recipe, folder, processes)
    assert_same_run(whole[processes], folder, "epoch-3.pt")


def test_audio_is_counted_alike_by_one_and_by_two(whole):
    alone, together = ([load_checkpoint(whole[n] / f"epoch-{e}.pt") for e in (1, 2, 3)] for n in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert one["position"]["trained_ms"] == two["position"]["trained_ms"] > 0
    assert [state["position"]["step"] for state in alone] == [6, 12, 18]
    assert [state["position"]["step"] for state in together] == [3, 6, 9]
    inside = load_checkpoint(whole[1] / "step-3.pt")["position"]["trained_ms"]
    assert 0 < inside < alone[0]["position"]["trained_ms"]


def test_every_process_has_the_state_of_its_own_encoder(whole):
    states = load_checkpoint(whole[2] / "epoch-3.pt")["encoder_training"]
    assert [state["calls"] for state in states] == [18, 18]
    assert states[0]["seen"] != states[1]["seen"]
    (state,) = load_checkpoint(whole[1] / "epoch-3.pt")["encoder_training"]
    assert state["calls"] == 36


def test_curves_have_batch_counts_and_clipping(whole):
    points = raw_points(whole[1])
    assert {"train/batch_count", "clip/threshold", "clip/percent_clipped"} <= points.keys()
    assert len(points["train/batch_count"]) == 9


def test_other_processes_go_on_with_the_count_and_the_state_of_the_first(recipe, whole):
    folder = recipe.exp("zipformer-other")
    folder.mkdir()
    shutil.copy(whole[2] / "epoch-2.pt", folder)
    train(recipe, folder, 1)
    before, after = (load_checkpoint(path / "epoch-3.pt") for path in (whole[2], folder))
    assert before["position"]["trained_ms"] == after["position"]["trained_ms"]
    assert after["encoder_training"][0]["calls"] == 12 + 12
    # Updates that were really made: 6 by two processes, 6 alone.
    assert after["position"]["step"] == 12
