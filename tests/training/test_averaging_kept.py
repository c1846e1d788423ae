"""Averages that training kept, taken from checkpoints; and the mean between two of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from audiotag.config import Config
from audiotag.configevaluation import WeightChoice
from audiotag.errors import CheckpointError
from audiotag.training.averaging import choose_weights
from audiotag.training.checkpoint import epoch_path, load_checkpoint, save_checkpoint, step_path
from audiotag.training.run import retention
from audiotag.training.weightaverages import WeightAverages
from tests.tiny import tiny_checkpoint

VECTORS = Path(__file__).parents[1] / "data" / "zipformer" / "averaging.safetensors"


def choose(exp_dir, **choice):
    return choose_weights(exp_dir, WeightChoice(**choice))


class Walk(nn.Module):
    """Weights that an update moves at random, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, 3))
        self.register_buffer("count", torch.tensor(0))


def walk(exp_dir, last, saved, **averages):
    """Checkpoints after the updates `saved` of `last`; the weights after each update."""
    model = Walk()
    kept = WeightAverages(model, **averages)
    passed = [model.w.detach().clone()]
    for step in range(1, last + 1):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            model.w.add_(torch.randn(4, 3, generator=generator))
            model.count.fill_(step)
        kept.update(step)
        passed.append(model.w.detach().clone())
        if step in saved:
            state = tiny_checkpoint(model=model.state_dict(), averages=kept.state_dict())
            save_checkpoint(step_path(exp_dir, step), state)
    return passed


@pytest.mark.parametrize("seed", range(6))
def test_the_mean_between_checkpoints_is_that_of_all_samples_between(tmp_path, seed):
    chance = random.Random(seed)
    period = chance.choice([1, 2, 5, 13])
    last = chance.randint(100, 400)
    start, end = sorted(chance.sample(range(1, last + 1), 2))
    if seed == 0:
        start = period  # nothing is excluded but the first sample
    if end // period == start // period:
        end = start + period
    passed = walk(tmp_path, max(last, end), (start, end), running_average={"period": period})
    chosen = choose(tmp_path, between=(f"step-{start}.pt", f"step-{end}.pt"))
    samples = [passed[step] for step in range(1, end + 1) if step > start and step % period == 0]
    mean = torch.stack(samples).double().mean(dim=0)
    assert torch.allclose(chosen.weights["w"].double(), mean, rtol=1e-6, atol=1e-6)
    assert chosen.weights["w"].dtype == torch.float32
    assert chosen.weights["count"] == end
    assert chosen.name == f"between-step{start}-step{end}"
    assert chosen.files == [f"step-{start}.pt", f"step-{end}.pt"]


def test_the_mean_between_published_checkpoints(tmp_path):
    vectors = load_file(VECTORS)
    model = nn.ParameterDict({"w": torch.empty(3, 4), "b": torch.empty(5)})
    kept = WeightAverages(model, running_average={"period": 2})
    for batch in range(1, 14):
        with torch.no_grad():
            for name in ("w", "b"):
                model[name].copy_(vectors[f"model.batch{batch}.{name}"])
        kept.update(batch)
        if batch in (5, 13):
            state = tiny_checkpoint(model=model.state_dict(), averages=kept.state_dict())
            save_checkpoint(step_path(tmp_path, batch), state)
    weights = choose(tmp_path, between=("step-5.pt", "step-13.pt")).weights
    for name in ("w", "b"):
        assert torch.allclose(weights[name], vectors[f"between_5_and_13.{name}"], rtol=0, atol=2e-6)


def test_a_start_before_the_first_sample_excludes_nothing(tmp_path):
    passed = walk(tmp_path, 30, (4, 30), running_average={"period": 10})
    weights = choose(tmp_path, between=("step-4.pt", "step-30.pt")).weights
    mean = torch.stack([passed[10], passed[20], passed[30]]).double().mean(dim=0)
    assert weights["w"].equal(mean.float())


def test_checkpoints_without_a_mean_between_them_are_refused(tmp_path):
    walk(tmp_path, 30, (12, 19, 21), running_average={"period": 10})
    with pytest.raises(CheckpointError, match=r"step-19\.pt has 1 samples.*at least 10 updates"):
        choose(tmp_path, between=("step-12.pt", "step-19.pt"))
    with pytest.raises(CheckpointError, match=r"step-12\.pt has 1 samples.*should be the earlier one, 2"):
        choose(tmp_path, between=("step-21.pt", "step-12.pt"))
    other = tmp_path / "other"
    other.mkdir()
    walk(other, 30, (30,), running_average={"period": 3})
    with pytest.raises(CheckpointError, match="not of one run"):
        choose(tmp_path, between=("step-12.pt", "other/step-30.pt"))
    save_checkpoint(step_path(tmp_path, 40), tiny_checkpoint())
    with pytest.raises(CheckpointError, match=r"step-40\.pt holds no running_average.*training\.running_av"):
        choose(tmp_path, between=("step-12.pt", "step-40.pt"))


def test_averages_that_training_kept(tmp_path):
    walk(tmp_path, 30, (2, 20, 30), running_average={"period": 10}, ema={"decay": 0.8, "warmup": False})
    files = ["step-20.pt", "step-30.pt"]
    states = [load_checkpoint(tmp_path / file)["averages"] for file in files]
    for kind, suffix in (("ema", "ema"), ("running_average", "running")):
        chosen = choose(tmp_path, checkpoints=["step-30.pt"], weights=kind)
        assert chosen.name == f"step30-{suffix}"
        assert chosen.weights["w"].equal(states[1][kind]["weights"]["w"].float())
        assert chosen.weights["count"] == 30
        both = choose(tmp_path, checkpoints=files, weights=kind).weights["w"]
        assert both.equal(((states[0][kind]["weights"]["w"] + states[1][kind]["weights"]["w"]) / 2).float())
    with pytest.raises(
        CheckpointError, match=r"step-2\.pt: its running_average of the weights had not begun"
    ):
        choose(tmp_path, checkpoints=["step-2.pt"], weights="running_average")
    with pytest.raises(CheckpointError, match=r"step-30\.pt holds no swa of the weights.*training\.swa"):
        choose(tmp_path, checkpoints=["step-30.pt"], weights="swa")


def epochs_of_a_walk(exp_dir, steps, best=None):
    """Checkpoints of epochs that end at these updates; the weights after each update."""
    passed = walk(exp_dir, max(steps), steps, running_average={"period": 10})
    for epoch, step in enumerate(steps, start=1):
        state = load_checkpoint(step_path(exp_dir, step))
        position = {"epoch": epoch, "batch": 0, "step": step, "world_size": 1}
        save_checkpoint(epoch_path(exp_dir, epoch), {**state, "position": position, "best": best})
        step_path(exp_dir, step).unlink()
    return passed


def mean_of(passed, first, last):
    samples = [passed[step] for step in range(first + 1, last + 1) if step % 10 == 0]
    return torch.stack(samples).double().mean(dim=0)


def test_the_averaged_model_of_the_last_epochs(tmp_path):
    best = {"metric": "mAP", "value": 0.5, "epoch": 3, "step": 63, "file": "epoch-3.pt"}
    passed = epochs_of_a_walk(tmp_path, (21, 42, 63, 84, 105), best)
    for choice, first, last, files in (
        ({"epoch": 4, "avg": 2}, 42, 84, ["epoch-2.pt", "epoch-4.pt"]),
        ({"avg": 4}, 21, 105, ["epoch-1.pt", "epoch-5.pt"]),
        ({"avg": 1}, 84, 105, ["epoch-4.pt", "epoch-5.pt"]),
        ({"best": True, "avg": 2}, 21, 63, ["epoch-1.pt", "epoch-3.pt"]),
    ):
        chosen = choose(tmp_path, use_averaged_model=True, **choice)
        assert chosen.files == files
        assert chosen.checkpoint["position"]["step"] == last
        assert chosen.by_validation == choice.get("best", False)
        expected = mean_of(passed, first, last)
        assert torch.allclose(chosen.weights["w"].double(), expected, rtol=1e-6, atol=1e-6)
    assert chosen.name == "best3-avg2-averaged-model"


def test_an_averaged_model_that_cannot_be_had_is_refused(tmp_path):
    epochs_of_a_walk(tmp_path, (21, 42, 63))
    with pytest.raises(CheckpointError, match=r"begins after epoch 0, which has no.*smaller --avg"):
        choose(tmp_path, use_averaged_model=True, avg=3)
    epoch_path(tmp_path, 1).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 1.*there are 2, 3.*keep_last"):
        choose(tmp_path, use_averaged_model=True, avg=2)
    with pytest.raises(CheckpointError, match="no checkpoint of epoch 7"):
        choose(tmp_path, use_averaged_model=True, epoch=7, avg=2)
    state = load_checkpoint(epoch_path(tmp_path, 2))
    save_checkpoint(epoch_path(tmp_path, 2), {**state, "averages": {}})
    with pytest.raises(CheckpointError, match=r"holds no running_average.*training\.running_average"):
        choose(tmp_path, use_averaged_model=True, avg=1)
    best = {"metric": "mAP", "value": 0.5, "epoch": 3, "step": 50, "file": "step-50.pt"}
    state = load_checkpoint(epoch_path(tmp_path, 3))
    for path in (epoch_path(tmp_path, 3), step_path(tmp_path, 50)):
        save_checkpoint(path, {**state, "best": best})
    with pytest.raises(CheckpointError, match=r"the best checkpoint is step-50\.pt, inside an epoch"):
        choose(tmp_path, use_averaged_model=True, best=True)


def test_the_checkpoint_before_the_best_epochs_is_kept():
    settings = {"training": {"running_average": {}, "keep_last": 5}, "evaluation": {"avg": 3, "best": True}}
    for averaged in (False, True):
        settings["evaluation"]["use_averaged_model"] = averaged
        kept = retention(Config.model_validate(settings))
        assert kept.before_best == 2 + averaged
