"""Checkpoints and validation inside epochs, early stopping, and where a run goes on."""

from __future__ import annotations

import shutil

import pytest
import torch

from audiotag.training.checkpoint import load_checkpoint
from tests.training.test_train_command import assert_same_state, points

# Six updates an epoch: 36 clips in batches of 3, two for each update.
SHORT = ("data.batch_size=3", "training.accumulate=2", "training.epochs=2", "training.log_every=4")
STEPS = (
    *SHORT,
    "training.save_every_steps=2",
    "training.validate_every_steps=4",
    "training.keep_last_steps=9",
)


@pytest.fixture(scope="module")
def stepped(recipe):
    done = recipe.train("stepped", *STEPS)
    assert done.returncode == 0, done.stderr
    return recipe.exp("stepped")


def test_there_are_checkpoints_inside_epochs(stepped):
    names = {path.name for path in stepped.glob("*.pt")}
    assert names == {f"{name}.pt" for name in ("step-2", "step-4", "step-8", "step-10", "epoch-1", "epoch-2")}
    state = load_checkpoint(stepped / "step-8.pt")
    assert state["position"] == {
        "epoch": 1,
        "batch": 4,
        "step": 8,
        "world_size": 1,
        "validated_step": 8,
        "trained_ms": state["position"]["trained_ms"],
        "steps_per_epoch": 6,
        "base_batches": 12,
    }  # fmt: skip
    # Validated every four updates and at the ends of epochs.
    assert [step for step, _ in points(stepped, "valid/mAP")] == [4, 6, 8, 12]
    state = load_checkpoint(stepped / "epoch-2.pt")
    files = [entry["file"] for entry in state["validations"]]
    assert files == ["step-4.pt", "epoch-1.pt", "step-8.pt", "epoch-2.pt"]
    assert [entry["epoch"] for entry in state["validations"]] == [1, 1, 2, 2]


@pytest.mark.parametrize("start", ["step-2", "step-4", "epoch-1", "step-10"])
def test_a_run_goes_on_from_any_of_them_with_the_same_bits(recipe, stepped, start):
    folder = recipe.exp(f"from_{start}")
    shutil.copytree(stepped, folder)
    reached = load_checkpoint(folder / f"{start}.pt")["position"]["step"]
    for path in folder.glob("*.pt"):
        if load_checkpoint(path)["position"]["step"] > reached:
            path.unlink()
    done = recipe.train(folder.name, *STEPS)
    assert done.returncode == 0, done.stderr
    assert f"resuming from exp/{folder.name}/{start}.pt" in done.stderr
    assert {path.name for path in folder.glob("*.pt")} == {path.name for path in stepped.glob("*.pt")}
    one, other = (load_checkpoint(exp / "epoch-2.pt") for exp in (stepped, folder))
    assert_same_state(one, other)
    for key in ("metrics", "best", "validations", "random"):
        assert one[key] == other[key], key
    for tag in ("train/loss", "train/grad_norm", "train/lr", "valid/mAP", "valid/loss"):
        assert points(folder, tag) == points(stepped, tag), tag


def test_the_newest_is_found_by_its_updates_and_damaged_ones_are_passed_over(recipe, stepped):
    folder = recipe.exp("newest")
    shutil.copytree(stepped, folder)
    (folder / "epoch-2.pt").unlink()
    (folder / "step-10.pt").write_bytes((folder / "step-10.pt").read_bytes()[:-100])
    done = recipe.train("newest", *STEPS)
    assert done.returncode == 0, done.stderr
    assert "step-10.pt: damaged" in done.stderr
    assert "resuming from exp/newest/step-8.pt" in done.stderr


@pytest.mark.slow
def test_a_given_checkpoint_is_gone_on_from_and_later_ones_are_kept_apart(recipe, stepped):
    folder = recipe.exp("given")
    shutil.copytree(stepped, folder)
    done = recipe.train("given", *STEPS, options=("--resume", "exp/given/step-4.pt"))
    assert done.returncode == 0, done.stderr
    assert "resuming from exp/given/step-4.pt" in done.stderr
    assert {path.name for path in (folder / "superseded-1").iterdir()} == {
        "epoch-1.pt", "step-8.pt", "step-10.pt", "epoch-2.pt"
    }  # fmt: skip
    assert_same_state(load_checkpoint(stepped / "epoch-2.pt"), load_checkpoint(folder / "epoch-2.pt"))
    done = recipe.train("given", *STEPS, options=("--resume", "exp/given/none.pt"))
    assert done.returncode == 4
    assert "checkpoint not found: exp/given/none.pt" in done.stderr


@pytest.mark.slow
def test_changes_are_allowed_on_request(recipe, stepped):
    folder = recipe.exp("allowed")
    shutil.copytree(stepped, folder)
    (folder / "epoch-2.pt").unlink()
    done = recipe.train("allowed", *STEPS, "optimizer.lr=0.002", "optimizer.weight_decay=0.5")
    assert done.returncode == 2
    assert "optimizer.lr (0.001 -> 0.002)" in done.stderr
    assert "--allow-changes" in done.stderr
    done = recipe.train(
        "allowed", *STEPS, "optimizer.lr=0.002", "optimizer.weight_decay=0.5", options=("--allow-changes",)
    )
    assert done.returncode == 0, done.stderr
    assert "changed since the checkpoint: optimizer.lr was 0.001, is 0.002" in done.stderr
    state = load_checkpoint(folder / "epoch-2.pt")
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.5, 0.0}
    assert points(folder, "train/lr")[-1][1] == pytest.approx(0.002)


@pytest.mark.slow
def test_training_ends_early_when_nothing_gets_better(recipe):
    worse = ("optimizer.lr=1e-9", "training.epochs=9", "training.min_delta=0.1", "training.patience=2")
    done = recipe.train("early", *worse, "training.best_metric=loss")
    assert done.returncode == 0, done.stderr
    assert "training ends early: loss did not get better in 2 validations (training.patience)" in done.stderr
    assert sorted(path.name for path in recipe.exp("early").glob("*.pt")) == [
        "epoch-1.pt", "epoch-2.pt", "epoch-3.pt"
    ]  # fmt: skip
    again = recipe.train("early", *worse, "training.best_metric=loss")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: trained for 3 epochs, loss did not get better" in again.stderr
    more = recipe.train("early", *worse, "training.best_metric=loss", "training.patience=3")
    assert more.returncode == 0, more.stderr
    assert (recipe.exp("early") / "epoch-4.pt").is_file()


def test_the_best_few_are_kept(recipe):
    done = recipe.train("best_few", "training.keep_last=1", "training.keep_best=2", "training.epochs=5")
    assert done.returncode == 0, done.stderr
    entries = load_checkpoint(recipe.exp("best_few") / "epoch-5.pt")["validations"]
    best = sorted(entries, key=lambda entry: -entry["value"])[:2]
    kept = {path.name for path in recipe.exp("best_few").glob("*.pt")}
    assert kept == {"epoch-5.pt"} | {entry["file"] for entry in best}


def test_validation_can_be_rarer_than_epochs(recipe):
    done = recipe.train("rare", "training.validate_every_epochs=3")
    assert done.returncode == 0, done.stderr
    # The last epoch is validated anyway.
    assert [step for step, _ in points(recipe.exp("rare"), "valid/mAP")] == [12, 16]
    assert load_checkpoint(recipe.exp("rare") / "epoch-2.pt")["metrics"] == {}


@pytest.mark.slow
def test_frozen_parts_stay_as_they_are_until_their_epoch(recipe):
    frozen = "training.freeze=[{modules: [encoder.blocks.0, encoder.pos_embed], epochs: 2}]"
    done = recipe.train("frozen", frozen, processes=2)
    assert done.returncode == 0, done.stderr
    states = [load_checkpoint(recipe.exp("frozen") / f"epoch-{epoch}.pt")["model"] for epoch in (1, 2, 3)]
    for name in states[0]:
        held = name.startswith(("encoder.blocks.0.", "encoder.pos_embed"))
        assert torch.equal(states[0][name], states[1][name]) == held, name
        assert not torch.equal(states[1][name], states[2][name]) or "key" in name, name
