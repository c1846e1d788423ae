"""Training as a user runs it: the command on real audio, alone and under torchrun, stopped and resumed."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audiotag.configfile import load_config
from audiotag.training.checkpoint import load_checkpoint


def points(folder, tag):
    """(update, value) pairs of a TensorBoard curve."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def assert_same_state(one, other):
    """Weights and optimiser state of two checkpoints are the same, bit by bit."""
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for index, state in one["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other["optimizer"]["state"][index][key]), (index, key)
    assert one["position"] == other["position"]


def test_a_run_leaves_what_the_readme_promises(finished):
    assert {f"epoch-{epoch}.pt" for epoch in (1, 2, 3, 4)} <= {item.name for item in finished.iterdir()}
    config = load_config(finished / "config.yaml")
    assert config.training.epochs == 4
    header = [line for line in (finished / "config.yaml").read_text().splitlines() if line.startswith("# ")]
    assert any(line.startswith("# git: ") for line in header)
    assert any(line.startswith("# lhotse: 1.33") for line in header)
    state = load_checkpoint(finished / "epoch-4.pt")
    # 36 training clips in batches of 9: four updates an epoch.
    assert state["position"] == {
        "epoch": 4,
        "batch": 0,
        "step": 16,
        "world_size": 1,
        "validated_step": 16,
        "steps_per_epoch": 4,
        "base_batches": None,
        "trained_ms": state["position"]["trained_ms"],
    }
    # Padding counts.
    clip_s, trained_s = state["coverage"]["train"]["duration_s"], state["position"]["trained_ms"] / 1000
    assert 4 * 36 * clip_s["mean"] <= trained_s + 0.1 <= 4 * 36 * clip_s["max"] + 0.2
    assert set(state["metrics"]) >= {"loss", "mAP", "mAUC", "d_prime", "accuracy"}
    assert state["best"]["metric"] == "mAP"
    assert torch.__version__.startswith(state["provenance"]["torch"])
    assert state["coverage"]["train"]["present"] == 36
    assert [step for step, _ in points(finished, "train/loss")] == list(range(2, 17, 2))
    assert [step for step, _ in points(finished, "valid/mAP")] == [4, 8, 12, 16]
    losses = [value for _, value in points(finished, "train/loss")]
    assert losses[-1] < losses[0]


def test_the_best_epoch_is_the_one_with_the_highest_metric(finished):
    states = {epoch: load_checkpoint(finished / f"epoch-{epoch}.pt") for epoch in (1, 2, 3, 4)}
    values = {epoch: state["metrics"]["mAP"] for epoch, state in states.items()}
    assert states[4]["best"]["value"] == max(values.values())
    assert values[states[4]["best"]["epoch"]] == max(values.values())


def test_a_resumed_run_ends_with_the_same_bits(recipe, finished):
    shutil.copytree(finished, recipe.exp("resumed"))
    for epoch in (3, 4):
        (recipe.exp("resumed") / f"epoch-{epoch}.pt").unlink()
    # A damaged newest checkpoint is named and passed over.
    (recipe.exp("resumed") / "epoch-3.pt").write_bytes(b"PK\x03\x04 half a file")
    done = recipe.train("resumed")
    assert done.returncode == 0, done.stderr
    assert "epoch-3.pt: " in done.stderr
    assert "looking for an earlier one" in done.stderr
    assert "resuming from exp/resumed/epoch-2.pt" in done.stderr
    assert_same_state(
        load_checkpoint(finished / "epoch-4.pt"), load_checkpoint(recipe.exp("resumed") / "epoch-4.pt")
    )
    for tag in ("train/loss", "train/lr", "train/grad_norm", "valid/mAP", "valid/loss"):
        assert points(recipe.exp("resumed"), tag) == points(finished, tag), tag


def test_a_finished_run_does_nothing_more(recipe, finished):
    before = (finished / "epoch-4.pt").stat().st_mtime_ns
    done = recipe.train("finished")
    assert done.returncode == 0, done.stderr
    assert (finished / "epoch-4.pt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_another_configuration_is_refused_and_restart_keeps_the_old_run(recipe, finished):
    shutil.copytree(finished, recipe.exp("changed"))
    done = recipe.train("changed", "optimizer.lr=0.01")
    assert done.returncode == 2
    assert "another configuration: optimizer.lr (0.001 -> 0.01); take another --tag" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    done = recipe.train("changed", "optimizer.lr=0.01", "training.epochs=1", options=("--restart",))
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(recipe.exp("changed.old-1") / "epoch-4.pt")["position"]["epoch"] == 4
    assert [path.name for path in recipe.exp("changed").glob("epoch-*.pt")] == ["epoch-1.pt"]


@pytest.mark.slow
def test_other_labels_or_clips_are_refused(recipe, finished):
    data = recipe.folder / "other_data"
    shutil.copytree(recipe.folder / "data", data)
    labels = data / "manifests" / "labels.csv"
    text = labels.read_text()
    labels.write_text(text.replace("/m/0aaa01", "/m/0zzz01"))
    done = recipe.train("finished", options=("--data-dir", str(data)))
    assert done.returncode == 2
    assert "exp/finished was trained with another list of labels; take another --tag" in done.stderr
    labels.write_text(text)
    cuts = data / "manifests" / "cuts_train.jsonl"
    cuts.write_text("".join(cuts.read_text().splitlines(keepends=True)[1:]))
    done = recipe.train("finished", options=("--data-dir", str(data)))
    assert done.returncode == 2
    assert "was trained on other clips or other labels of them (36 then, 35 now)" in done.stderr


@pytest.mark.slow
def test_another_number_of_processes_keeps_the_schedule(recipe, finished):
    shutil.copytree(finished, recipe.exp("wider"))
    for epoch in (3, 4):
        (recipe.exp("wider") / f"epoch-{epoch}.pt").unlink()
    cosine = ("schedule.name=cosine", "training.log_every=1")
    assert recipe.train("cosine", *cosine, "training.epochs=2").returncode == 0
    done = recipe.train("cosine", *cosine, "training.epochs=4", processes=2)
    assert done.returncode == 0, done.stderr
    assert "trained by 1 processes so far, by 2 from here" in done.stderr
    # Two updates an epoch where there were four: the third epoch starts in the middle of the cosine.
    rates = [value for step, value in points(recipe.exp("cosine"), "train/lr") if step > 8]
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in (4, 5, 6, 7)])


@pytest.mark.slow
def test_points_of_an_epoch_without_a_checkpoint_do_not_stay(recipe):
    assert recipe.train("begun", "training.epochs=1").returncode == 0
    (recipe.exp("begun") / "epoch-1.pt").unlink()
    assert recipe.train("begun", "training.epochs=1", "training.log_every=4").returncode == 0
    assert [step for step, _ in points(recipe.exp("begun"), "train/loss")] == [4]


def test_a_restart_that_cannot_begin_leaves_the_old_run(recipe, finished):
    shutil.copytree(finished, recipe.exp("kept"))
    done = recipe.train("kept", "data.max_duration_s=0.1", options=("--restart",))
    assert done.returncode == 2
    assert (recipe.exp("kept") / "epoch-4.pt").is_file()
    assert not recipe.exp("kept.old-1").exists()


def test_more_epochs_may_be_added(recipe, finished):
    shutil.copytree(finished, recipe.exp("longer"))
    done = recipe.train("longer", "training.epochs=5")
    assert done.returncode == 0, done.stderr
    assert "changed since the checkpoint: training.epochs was 4, is 5" in done.stderr
    assert load_checkpoint(recipe.exp("longer") / "epoch-5.pt")["position"]["step"] == 20


@pytest.mark.slow
def test_accumulation_equals_a_larger_batch(recipe):
    fixed = ("encoder.dropout=0", "training.epochs=1", "data.num_workers=0")
    assert recipe.train("whole", *fixed, "data.batch_size=18").returncode == 0
    assert recipe.train("parts", *fixed, "data.batch_size=6", "training.accumulate=3").returncode == 0
    whole, parts = (load_checkpoint(recipe.exp(name) / "epoch-1.pt") for name in ("whole", "parts"))
    assert whole["position"]["step"] == parts["position"]["step"] == 2
    for name, tensor in whole["model"].items():
        assert torch.allclose(tensor, parts["model"][name], atol=1e-5), name
    # Adam hardly minds the scale of gradients; their norm shows it.
    norms = [dict(points(recipe.exp(name), "train/grad_norm")) for name in ("whole", "parts")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_two_processes_equal_one_with_twice_the_batch(recipe):
    fixed = ("encoder.dropout=0", "training.epochs=1", "data.num_workers=0")
    done = recipe.train("two", *fixed, "data.batch_size=9", processes=2)
    assert done.returncode == 0, done.stderr
    assert recipe.train("one", *fixed, "data.batch_size=18").returncode == 0
    two, one = (load_checkpoint(recipe.exp(name) / "epoch-1.pt") for name in ("two", "one"))
    assert two["position"]["step"] == one["position"]["step"] == 2
    for name, tensor in one["model"].items():
        assert torch.allclose(tensor, two["model"][name], atol=1e-5), name
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4)
    norms = [dict(points(recipe.exp(name), "train/grad_norm")) for name in ("two", "one")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_trains(recipe, amp):
    done = recipe.train(amp, f"training.amp={amp}", "training.epochs=2")
    assert done.returncode == 0, done.stderr
    losses = [value for _, value in points(recipe.exp(amp), "train/loss")]
    assert losses[-1] < losses[0]
    weights = load_checkpoint(recipe.exp(amp) / "epoch-2.pt")["model"].values()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights)


def test_only_the_newest_and_the_best_checkpoints_are_kept(recipe):
    done = recipe.train("few", "training.keep_last=1", "training.best_metric=loss")
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(recipe.exp("few") / "epoch-4.pt")
    kept = {path.name for path in recipe.exp("few").glob("epoch-*.pt")}
    assert kept == {"epoch-4.pt", f"epoch-{state['best']['epoch']}.pt"}


def test_the_epochs_averaged_with_the_best_one_are_kept(recipe):
    worse = ("training.best_metric=loss", "optimizer.lr=0.3", "training.epochs=6")
    done = recipe.train("window", *worse, "training.keep_last=2", "evaluation.avg=2")
    assert done.returncode == 0, done.stderr
    best = load_checkpoint(recipe.exp("window") / "epoch-6.pt")["best"]["epoch"]
    kept = {path.name for path in recipe.exp("window").glob("epoch-*.pt")}
    assert kept == {f"epoch-{epoch}.pt" for epoch in {5, 6, best, max(best - 1, 1)}}


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoints(recipe):
    done = recipe.train("nan", "optimizer.lr=1e30", "training.clip_norm=null", "training.epochs=2")
    assert done.returncode == 5
    # The first update throws the weights far away, the second one cannot be computed.
    assert "error: update 2 was not made: " in done.stderr
    assert "values are not finite (clips " in done.stderr
    assert (recipe.exp("nan") / "divergence-step-2-rank-0.pt").is_file()
    assert "Traceback" not in done.stderr
    for path in recipe.exp("nan").glob("epoch-*.pt"):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path)["model"].values())


@pytest.mark.slow
def test_missing_data_names_the_stage(recipe, tmp_path):
    arguments = ("--config", "config.yaml", "--exp-dir", "exp/none")
    done = recipe.run("train", *arguments, "--data-dir", str(tmp_path))
    assert done.returncode == 3
    assert "stage 1 makes it" in done.stderr
    done = recipe.train("none", "features.storage=stored")
    assert done.returncode == 3
    assert "data/fbank/ast128/cuts_train.jsonl is missing; stage 2 makes it" in done.stderr
    done = recipe.train("none", "features.normalization=corpus")
    assert done.returncode == 3
    assert "stage 4" in done.stderr
    done = recipe.train("none", "augment.noise.dir=musan")
    assert done.returncode == 3
    assert "data/noise/ast128/cuts_noise.jsonl is missing; stage 3 makes it" in done.stderr
