"""Choosing checkpoints and averaging their weights."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiotag.configevaluation import WeightChoice
from audiotag.errors import CheckpointError
from audiotag.training import weightmeans
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import epoch_path, load_checkpoint, save_checkpoint, step_path
from tests.tiny import tiny_checkpoint, tiny_config, tiny_labels

VECTORS = Path(__file__).parents[1] / "data" / "zipformer" / "averaging.safetensors"


def choose(exp_dir, **choice):
    return choose_weights(exp_dir, WeightChoice(**choice))


def weights_of(seed):
    return tiny_checkpoint(seed=seed)["model"]


@pytest.fixture
def run(tmp_path):
    """A finished run whose first epoch was deleted, since it was none of the best."""
    for epoch in (2, 3, 4, 5):
        best = {"epoch": 3, "metric": "mAP", "value": 0.9}
        save_checkpoint(epoch_path(tmp_path, epoch), tiny_checkpoint(seed=epoch, epoch=epoch, best=best))
    return tmp_path


@pytest.fixture
def validated(tmp_path):
    """A run that was validated inside epochs too; the last checkpoint lies inside the third epoch."""
    entries = [
        ("step-5.pt", 0, 5, 0.2),
        ("epoch-1.pt", 1, 10, 0.6),
        ("step-15.pt", 1, 15, 0.8),
        ("epoch-2.pt", 2, 20, 0.7),
        ("step-25.pt", 2, 25, 0.6),
    ]
    best, validations = None, []
    for file, epoch, step, value in entries:
        entry = {"file": file, "epoch": epoch, "step": step, "value": value}
        validations.append(entry)
        best = entry if best is None or value > best["value"] else best
        state = tiny_checkpoint(
            seed=step,
            best={"metric": "mAP", **best},
            validations=list(validations),
            position={"epoch": epoch, "batch": step % 10, "step": step, "world_size": 1},
        )
        save_checkpoint(tmp_path / file, state)
    return tmp_path


def test_the_last_epoch_is_the_default(run):
    chosen = choose(run)
    assert (chosen.name, chosen.files, chosen.by_validation) == ("epoch5", ["epoch-5.pt"], False)
    assert all(tensor.equal(weights_of(5)[name]) for name, tensor in chosen.weights.items())
    assert chosen.sha256 == {"epoch-5.pt": hashlib.sha256((run / "epoch-5.pt").read_bytes()).hexdigest()}
    assert chosen.checkpoint["position"]["epoch"] == 5
    assert "optimizer" not in chosen.checkpoint


def test_the_mean_of_several_epochs(run):
    chosen = choose(run, epoch=4, avg=3)
    assert (chosen.name, chosen.files) == ("epoch4-avg3", ["epoch-2.pt", "epoch-3.pt", "epoch-4.pt"])
    assert list(chosen.sha256) == chosen.files
    for name, tensor in chosen.weights.items():
        mean = sum(weights_of(epoch)[name].double() for epoch in (2, 3, 4)) / 3
        assert tensor.dtype == weights_of(4)[name].dtype
        assert tensor.equal(mean.to(tensor.dtype)), name


def test_the_sum_is_exact_where_float32_is_not(run):
    """One large value would swallow the small ones."""
    for epoch, value in ((3, 1e8), (4, 1.0), (5, -1e8)):
        state = tiny_checkpoint(epoch=epoch)
        state["model"]["head.bias"].fill_(value)
        save_checkpoint(epoch_path(run, epoch), state)
    assert choose(run, avg=3).weights["head.bias"].equal(torch.full((3,), 1 / 3))


def test_the_mean_of_published_checkpoints(tmp_path):
    """Reference vectors; of the integer we take the last, where the published code divides."""
    vectors = load_file(VECTORS)
    for batch in (5, 9, 13):
        model = {name: vectors[f"model.batch{batch}.{name}"] for name in ("w", "b")}
        model["count"] = torch.tensor(batch)
        save_checkpoint(step_path(tmp_path, batch), tiny_checkpoint(model=model))
    weights = choose(tmp_path, checkpoints=["step-5.pt", "step-9.pt", "step-13.pt"]).weights
    for name in ("w", "b"):
        assert torch.allclose(weights[name], vectors[f"mean_of_5_9_13.{name}"], rtol=0, atol=2e-6)
    assert weights["count"] == 13


def test_one_file_is_in_memory_at_a_time(run, monkeypatch):
    loaded = []

    def load(path):
        assert not any(reference() is not None for reference in loaded), "an earlier file is still held"
        state = load_checkpoint(path)
        loaded.append(weakref.ref(state["model"]["head.weight"]))
        return state

    monkeypatch.setattr(weightmeans, "load_checkpoint", load)
    choose(run, avg=4)
    assert len(loaded) == 4


def test_the_best_epoch(run):
    chosen = choose(run, best=True)
    assert (chosen.name, chosen.by_validation) == ("best3", True)
    assert choose(run, best=True, avg=2).files == ["epoch-2.pt", "epoch-3.pt"]
    assert choose(run, best=True, avg=2).name == "best3-avg2"


def test_the_best_checkpoint_may_lie_inside_an_epoch(validated):
    chosen = choose(validated, best=True)
    assert (chosen.name, chosen.files) == ("best-step15", ["step-15.pt"])
    with pytest.raises(CheckpointError, match=r"best checkpoint is step-15\.pt, inside an epoch"):
        choose(validated, best=True, avg=2)
    (validated / "step-15.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"step-15\.pt is the best by mAP according to step-25\.pt, but"
    ):
        choose(validated, best=True)


def test_the_mean_of_the_best_of_all_that_the_newest_checkpoint_knows(validated):
    chosen = choose(validated, best_k=3)
    # Of the two with 0.6 the earlier one counts as better.
    assert (chosen.name, chosen.files) == ("best-k3", ["epoch-1.pt", "step-15.pt", "epoch-2.pt"])
    assert chosen.by_validation
    mean = sum(weights_of(step)["head.weight"].double() for step in (10, 15, 20)) / 3
    assert chosen.weights["head.weight"].equal(mean.float())
    (validated / "step-25.pt").unlink()
    assert choose(validated, best_k=2).files == ["step-15.pt", "epoch-2.pt"]


def test_the_best_by_a_loss_are_the_lowest(validated):
    state = load_checkpoint(validated / "step-25.pt")
    state["best"] = {"metric": "loss", **state["validations"][0]}
    save_checkpoint(validated / "step-25.pt", state)
    assert choose(validated, best_k=3).files == ["step-5.pt", "epoch-1.pt", "step-25.pt"]


def test_too_few_or_deleted_best_checkpoints_are_named(validated):
    with pytest.raises(CheckpointError, match=r"step-25\.pt notes validations of 5 checkpoints, too few"):
        choose(validated, best_k=6)
    (validated / "epoch-2.pt").unlink()
    with pytest.raises(CheckpointError, match=r"epoch-2\.pt is number 2 of the best 3 by mAP .*keep_best"):
        choose(validated, best_k=3)


def test_checkpoints_of_version_1_know_the_best_epoch_alone(run):
    state = {key: value for key, value in load_checkpoint(run / "epoch-5.pt").items() if key != "validations"}
    save_checkpoint(run / "epoch-5.pt", {**state, "version": 1})
    assert choose(run, best=True).name == "best3"
    with pytest.raises(CheckpointError, match=r"epoch-5\.pt notes no validations.*version 1"):
        choose(run, best_k=2)


def test_named_files_are_averaged(run, tmp_path_factory):
    save_checkpoint(run / "step-7.pt", tiny_checkpoint(seed=7))
    save_checkpoint(run / "averaged-best-k3.pt", tiny_checkpoint(seed=8))
    elsewhere = tmp_path_factory.mktemp("other") / "epoch-3.pt"
    save_checkpoint(elsewhere, tiny_checkpoint(seed=9))
    assert choose(run, checkpoints=["epoch-3.pt"]).name == "epoch3"
    assert choose(run, checkpoints=[str(run / "step-7.pt")]).name == "step7"
    assert choose(run, checkpoints=["averaged-best-k3.pt"]).name == "averaged-best-k3"
    other = choose(run, checkpoints=[str(elsewhere)])
    assert other.name.startswith("epoch3-") and other.files == [str(elsewhere)]
    two = choose(run, checkpoints=["step-7.pt", str(elsewhere)])
    assert two.files == ["step-7.pt", str(elsewhere)]
    mean = (weights_of(7)["head.bias"].double() + weights_of(9)["head.bias"].double()) / 2
    assert two.weights["head.bias"].equal(mean.float())
    names = {two.name, choose(run, checkpoints=["step-7.pt", "epoch-3.pt"]).name, other.name}
    assert len(names) == 3 and all(len(name) < 20 for name in names)
    # A link to other storage is a file of the run.
    (run / "epoch-6.pt").symlink_to(elsewhere)
    assert choose(run, checkpoints=["epoch-6.pt"]).files == ["epoch-6.pt"]


def test_names_for_folders_are_plain_and_differ(run):
    odd = ["my model (1).pt", "my model (2).pt", "epoch-3 .pt", "é.pt", "best3.pt", "x" * 200 + ".pt"]
    for name in odd:
        save_checkpoint(run / name, tiny_checkpoint())
    names = [choose(run, checkpoints=[name]).name for name in odd] + [choose(run, best=True).name]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and len(name) < 70 for name in names), names


def test_named_files_that_are_missing_or_doubled_are_refused(run):
    with pytest.raises(CheckpointError, match=r"not found: .*step-7\.pt; .* has epoch-2\.pt, epoch-3\.pt"):
        choose(run, checkpoints=["step-7.pt"])
    with pytest.raises(CheckpointError, match=r"epoch-3\.pt is named twice"):
        choose(run, checkpoints=["epoch-3.pt", f"../{run.name}/epoch-3.pt"])


def test_weights_of_other_models_are_refused(run):
    model = weights_of(3)

    def refused(message, **others):
        save_checkpoint(run / "epoch-4.pt", tiny_checkpoint(seed=4, epoch=4, **others))
        with pytest.raises(CheckpointError, match=message):
            choose(run, avg=2)

    refused(r"head\.bias has shape \(3,\), but \(4,\) in", model={**model, "head.bias": torch.zeros(4)})
    refused("other names.*extra is in one alone", model={**model, "extra": torch.zeros(1)})
    refused(
        r"other names.*head\.bias is in one", model={**model, "head.bias": torch.zeros(3, dtype=torch.int64)}
    )
    refused("its labels are not those of", labels=list(reversed(tiny_labels().to_rows())))
    config = tiny_config()
    config["encoder"]["num_heads"] = 4
    refused("encoder.num_heads is 2, but 4 in", config=config)
    config = tiny_config()
    config["features"]["mean"] = -3.0
    refused("features.mean is None, but -3.0", config=config)
    config = tiny_config()
    config["encoder"]["dropout"] = 0.3
    config["features"]["storage"] = "on_the_fly"
    save_checkpoint(run / "epoch-4.pt", tiny_checkpoint(seed=4, epoch=4, config=config))
    assert choose(run, avg=2).name == "epoch5-avg2"


def test_models_of_several_training_sets_have_no_clips_that_they_surely_never_saw(run):
    assert choose(run, avg=2).checkpoint["train_data"] == {"clips": 0, "digest": ""}
    state = tiny_checkpoint(seed=4, epoch=4, train_data={"clips": 7, "digest": "other"})
    save_checkpoint(run / "epoch-4.pt", state)
    assert choose(run, avg=2).checkpoint["train_data"] is None
    assert choose(run).checkpoint["train_data"] is not None


def test_missing_epochs_are_named(run, tmp_path_factory):
    with pytest.raises(CheckpointError, match="no checkpoint of epoch 1, which the average needs"):
        choose(run, epoch=3, avg=3)
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 9.*there are 2, 3, 4, 5"):
        choose(run, epoch=9)
    empty = tmp_path_factory.mktemp("empty")
    for choice in ({}, {"best": True}, {"best_k": 2}):
        with pytest.raises(CheckpointError, match="stage 5 makes them"):
            choose(empty, **choice)
    save_checkpoint(step_path(empty, 7), tiny_checkpoint())
    assert choose(empty).files == ["step-7.pt"]
    with pytest.raises(CheckpointError, match=r"only step-7\.pt: train on"):
        choose(empty, avg=2)


def test_more_epochs_than_there_were_cannot_be_averaged(run):
    with pytest.raises(CheckpointError, match="epoch 2 cannot end an average of 3 epochs"):
        choose(run, epoch=2, avg=3)


def test_a_run_without_validation_has_no_best(tmp_path):
    save_checkpoint(epoch_path(tmp_path, 1), tiny_checkpoint())
    with pytest.raises(CheckpointError, match="no best epoch is known"):
        choose(tmp_path, best=True)
    with pytest.raises(CheckpointError, match="notes no validations"):
        choose(tmp_path, best_k=1)
