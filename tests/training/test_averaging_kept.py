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
from tests.tiny import tiny_checkpoint, tiny_config

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


def change(path, **entries):
    """Write a checkpoint anew with other entries, without those that are None."""
    state = {key: value for key, value in load_checkpoint(path).items() if key not in ("format", "version")}
    state.update(entries)
    without = [key for key, value in entries.items() if value is None]
    save_checkpoint(path, {key: value for key, value in state.items() if key not in without})


def validations(*values):
    """What as many validations found, one every 5 updates."""
    steps = range(5, 5 * len(values) + 1, 5)
    return [
        {"file": f"step-{step}.pt", "epoch": 1, "step": step, "value": value}
        for step, value in zip(steps, values, strict=True)
    ]


@pytest.mark.parametrize(
    ("of_start", "of_end", "message"),
    [
        ({}, {"seed": 8}, "the first has seed 42, the second 8"),
        ({}, {"train_data": {"clips": 0, "digest": "other"}}, "trained on other clips"),
        ({"mixed_data": {"clips": 1}}, {"mixed_data": {"clips": 2}}, "trained on other clips"),
        ({"validations": validations(0.3, 0.5)}, {"validations": validations(0.3, 0.6, 0.7)}, "do not begin"),
        ({"validations": validations(0.3, 0.5)}, {"validations": validations(0.3)}, "do not begin"),
        ({"validations": validations(0.3)}, {"validations": validations(0.4), "seed": 8}, "do not begin"),
        ({"validations": []}, {"validations": validations(0.4), "seed": 8}, "has seed 42"),
        # What may differ between two parts of one run, or is not known.
        ({"validations": validations(0.3)}, {"validations": validations(0.3, 0.2)}, None),
        ({"validations": validations(0.3)}, {"validations": validations(0.3, 0.2), "seed": 8}, None),
        ({"validations": validations(0.3)}, {"validations": validations(0.8), "best_metric": "loss"}, None),
        ({"validations": None, "version": 1}, {"validations": validations(0.3, 0.2)}, None),
        ({"validations": None, "version": 1}, {"validations": validations(0.3), "seed": 8}, "has seed 42"),
        ({"train_data": None}, {"train_data": {"clips": 0, "digest": "other"}}, None),
    ],
)  # fmt: skip
def test_there_is_no_mean_between_two_runs(tmp_path, of_start, of_end, message):
    walk(tmp_path, 30, (20, 30), running_average={"period": 10})
    for name, entries in (("step-20.pt", dict(of_start)), ("step-30.pt", dict(of_end))):
        config = tiny_config()
        config["seed"] = entries.pop("seed", config["seed"])
        config["training"]["best_metric"] = entries.pop("best_metric", config["training"]["best_metric"])
        change(tmp_path / name, config=config, **entries)
    if message is None:
        assert choose(tmp_path, between=("step-20.pt", "step-30.pt")).files == ["step-20.pt", "step-30.pt"]
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        choose(tmp_path, between=("step-20.pt", "step-30.pt"))
    assert all(str(tmp_path / name) in str(caught.value) for name in ("step-20.pt", "step-30.pt"))


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


def validated_by(path, kind, **entries):
    """Have validation measured weights of this kind at a checkpoint."""
    config = tiny_config()
    config["training"]["validate_weights"] = kind
    change(path, config=config, **entries)


def test_unless_a_kind_is_given_the_weights_that_validation_measured_are_taken(tmp_path):
    passed = walk(
        tmp_path, 30, (2, 20, 30), running_average={"period": 10}, ema={"decay": 0.8, "warmup": False}
    )
    averages = {step: load_checkpoint(tmp_path / f"step-{step}.pt")["averages"] for step in (2, 20, 30)}
    for step in (2, 20, 30):
        validated_by(tmp_path / f"step-{step}.pt", "ema")
    files = ["step-20.pt", "step-30.pt"]
    chosen = choose(tmp_path, checkpoints=["step-30.pt"])
    assert (chosen.name, chosen.kind, chosen.measured) == ("step30-ema", "ema", "ema")
    assert chosen.weights["w"].equal(averages[30]["ema"]["weights"]["w"].float())
    both = choose(tmp_path, checkpoints=files)
    assert both.weights["w"].equal(
        ((averages[20]["ema"]["weights"]["w"] + averages[30]["ema"]["weights"]["w"]) / 2).float()
    )
    trained = choose(tmp_path, checkpoints=["step-30.pt"], weights="model")
    assert (trained.name, trained.kind, trained.measured) == ("step30", "model", "ema")
    assert trained.weights["w"].equal(passed[30])
    # A mean between two has nothing to do with it.
    between = choose(tmp_path, between=files)
    assert between.name == "between-step20-step30"
    assert between.weights["w"].equal(choose(tmp_path, between=files, weights="model").weights["w"])
    # The running average had not begun, so that validation measured the trained weights.
    for step in (2, 20):
        validated_by(tmp_path / f"step-{step}.pt", "running_average")
    assert choose(tmp_path, checkpoints=["step-2.pt"]).weights["w"].equal(passed[2])
    assert choose(tmp_path, checkpoints=["step-20.pt"]).name == "step20-running"
    with pytest.raises(
        CheckpointError,
        match=r"validation measured the trained weights of .*step-2\.pt, but "
        r"the running average of the weights of .*step-20\.pt: choose one kind",
    ):
        choose(tmp_path, checkpoints=["step-2.pt", "step-20.pt"])
    assert choose(tmp_path, checkpoints=["step-2.pt", "step-20.pt"], weights="model").kind == "model"


def test_checkpoints_that_do_not_know_what_is_measured_give_trained_weights(tmp_path):
    passed = walk(tmp_path, 3, (3,))
    config = tiny_config()
    del config["training"]["validate_weights"]
    change(tmp_path / "step-3.pt", config=config, version=1)
    assert choose(tmp_path, checkpoints=["step-3.pt"]).weights["w"].equal(passed[3])


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
