"""The averages of the weights that training keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from audiotag.errors import CheckpointError, ConfigError
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from audiotag.training.weightaverages import WeightAverages
from tests.tiny import tiny_checkpoint

VECTORS = Path(__file__).parents[1] / "data" / "zipformer" / "averaging.safetensors"
EVERY = {
    "ema": {"decay": 0.9, "warmup": True},
    "running_average": {"period": 3},
    "swa": {"first_epoch": 2, "last_epoch": 3},
}


class Toy(nn.Module):
    """Weights, some of them never trained, a float buffer and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, 4))
        self.frozen = nn.Parameter(torch.linspace(0.1, 0.7, 7), requires_grad=False)
        self.coarse = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
        self.register_buffer("statistic", torch.zeros(5))
        self.register_buffer("count", torch.tensor(0))


def move(model: nn.Module, step: int) -> None:
    """An update: other values in all that is not frozen."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name == "count":
                tensor.fill_(step)
            elif name != "frozen":
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 10)


def train(averages: WeightAverages, first: int, last: int) -> list[dict]:
    """Updates `first` to `last`, four to an epoch; the weights after each."""
    passed = []
    for step in range(first, last + 1):
        move(averages.tagger, step)
        averages.update(step)
        if step % 4 == 0:
            averages.end_epoch(step // 4)
        passed.append({name: tensor.clone() for name, tensor in averages.tagger.state_dict().items()})
    return passed


def mean(models: list[dict], name: str) -> torch.Tensor:
    return torch.stack([model[name].double() for model in models]).mean(dim=0)


def test_the_running_average_is_that_of_the_published_code():
    """Vectors of 15 updates with a sample at every second, the averages in float32."""
    vectors = load_file(VECTORS)
    model = nn.ParameterDict({"w": torch.empty(3, 4), "b": torch.empty(5)})
    averages = WeightAverages(model, running_average={"period": 2})
    for step in range(15):
        with torch.no_grad():
            for name in ("w", "b"):
                model[name].copy_(vectors[f"model.batch{step}.{name}"])
        if step == 0:
            continue
        averages.update(step)
        now = averages.weights("running_average")
        assert (now is None) == (step == 1)
        if step % 2 == 0:
            for name in ("w", "b"):
                expected = vectors[f"model_avg.after_batch{step}.{name}"]
                assert torch.allclose(now[name], expected, rtol=0, atol=2e-6), (step, name)


@pytest.mark.parametrize("period", [1, 3, 7])
def test_the_running_average_is_the_mean_of_the_samples(period):
    averages = WeightAverages(Toy(), running_average={"period": period})
    passed = train(averages, 1, 200)
    kept = averages.state_dict()["running_average"]
    assert kept["samples"] == 200 // period
    for name in ("w", "coarse", "statistic"):
        expected = mean(passed[period - 1 :: period], name)
        assert torch.allclose(kept["weights"][name], expected, rtol=0, atol=1e-12), name


def test_the_ema_follows_its_formula():
    for settings in ({"decay": 0.9, "warmup": True}, {"decay": 0.9, "warmup": False}):
        model = Toy()
        expected = model.w.detach().double()
        averages = WeightAverages(model, ema=settings)
        for step, passed in enumerate(train(averages, 1, 120), start=1):
            decay = min(0.9, (1 + step) / (10 + step)) if settings["warmup"] else 0.9
            expected = decay * expected + (1 - decay) * passed["w"].double()
        kept = averages.state_dict()["ema"]["weights"]["w"]
        assert kept.dtype == torch.float64
        assert torch.allclose(kept, expected, rtol=0, atol=1e-12)


def test_swa_is_the_mean_of_its_epochs_ends():
    averages = WeightAverages(Toy(), swa={"first_epoch": 2, "last_epoch": 4})
    assert not train(averages, 1, 4)[0]["w"].equal(averages.tagger.w)
    assert averages.weights("swa") is None
    passed = train(averages, 5, 24)
    kept = averages.state_dict()["swa"]
    assert kept["samples"] == 3
    assert torch.allclose(
        kept["weights"]["w"], mean([passed[3], passed[7], passed[11]], "w"), rtol=0, atol=1e-12
    )
    endless = WeightAverages(Toy(), swa={"first_epoch": 2, "last_epoch": None})
    train(endless, 1, 24)
    assert endless.state_dict()["swa"]["samples"] == 5


def test_what_is_not_trained_and_what_counts_stay_as_they_are():
    averages = WeightAverages(Toy(), **EVERY)
    train(averages, 1, 1000)
    for kind in EVERY:
        weights = averages.weights(kind)
        assert weights["frozen"].equal(averages.tagger.frozen), kind
        kept = averages.state_dict()[kind]["weights"]["frozen"]
        assert kept.equal(averages.tagger.frozen.double()), kind
        assert weights["count"] == 1000 and weights["count"].dtype == torch.int64
        assert list(weights) == list(averages.tagger.state_dict())
        assert weights["coarse"].dtype == torch.bfloat16
        averages.tagger.load_state_dict(weights)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 8, 9, 11, 12, 16])
def test_a_stored_and_restored_run_keeps_the_averages_to_the_last_bit(tmp_path, cut):
    """Saving leaves the averages in use in float64, and so does restoring them."""
    undisturbed = WeightAverages(Toy(), **EVERY)
    train(undisturbed, 1, 20)
    averages = WeightAverages(Toy(), **EVERY)
    train(averages, 1, cut)
    stored = {"model": averages.tagger.state_dict(), "averages": averages.state_dict()}
    save_checkpoint(tmp_path / "step.pt", tiny_checkpoint(**stored))
    state = load_checkpoint(tmp_path / "step.pt")
    restored = WeightAverages(Toy(), **EVERY)
    train(restored, 1, 2)  # what it took in before must not show
    restored.tagger.load_state_dict(state["model"])
    restored.load_state_dict(state["averages"])
    for run in (averages, restored):
        train(run, cut + 1, 20)
        for kind, average in undisturbed.state_dict().items():
            now = run.state_dict()[kind]
            assert now["samples"] == average["samples"] > 0
            assert now["weights"].keys() == average["weights"].keys()
            for name, tensor in average["weights"].items():
                assert now["weights"][name].dtype == torch.float64
                assert now["weights"][name].equal(tensor), (kind, name)


def test_states_that_do_not_fit_are_refused_and_a_missing_one_begins_anew():
    averages = WeightAverages(Toy(), **EVERY)
    train(averages, 1, 12)
    state = averages.state_dict()
    other = WeightAverages(Toy(), running_average={"period": 4})
    with pytest.raises(CheckpointError, match=r"every 3 updates, now training.running_average.period is 4"):
        other.load_state_dict(state)
    short = {**state["ema"], "weights": {**state["ema"]["weights"], "w": torch.zeros(3, 5).double()}}
    with pytest.raises(CheckpointError, match=r"ema does not fit the model: w should have shape \(3, 4\)"):
        averages.load_state_dict({**state, "ema": short})
    degraded = {name: tensor.float() for name, tensor in state["ema"]["weights"].items()}
    with pytest.raises(CheckpointError, match=r"in torch.float64, found \(3, 4\) in torch.float32"):
        averages.load_state_dict({**state, "ema": {**state["ema"], "weights": degraded}})
    with pytest.raises(CheckpointError, match="found nothing"):
        averages.load_state_dict({**state, "ema": {**state["ema"], "weights": {}}})
    fresh = WeightAverages(Toy(), ema=EVERY["ema"])
    move(fresh.tagger, 12)
    fresh.load_state_dict({})
    assert fresh.averages["ema"].samples == 0
    assert fresh.averages["ema"].weights["w"].equal(fresh.tagger.w.double())


def test_validation_sees_the_average_and_training_goes_on_with_its_own_weights():
    averages = WeightAverages(Toy(), **EVERY)
    model = averages.tagger
    train(averages, 1, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = dict(model.named_parameters())
    for kind, inside in (("model", "model"), ("ema", "ema"), ("swa", "model"), ("running_average", "model")):
        with averages.swapped(model, kind) as taken:
            assert taken == inside
            expected = before if inside == "model" else averages.weights(kind)
            assert all(tensor.equal(expected[name]) for name, tensor in model.state_dict().items())
            assert model.w.equal(before["w"]) == (inside == "model")
            assert all(parameter is own[name] for name, parameter in model.named_parameters())
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt), averages.swapped(model, "ema"):
        raise KeyboardInterrupt
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_an_average_that_is_not_kept_is_named():
    averages = WeightAverages(Toy(), ema=EVERY["ema"])
    with pytest.raises(ConfigError, match=r"training\.swa is not set"):
        averages.weights("swa")
    assert WeightAverages(Toy()).state_dict() == {}
    WeightAverages(Toy()).update(1)
