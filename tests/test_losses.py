"""The losses against torch's own, their gradients, and what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from audiotag.config import Config
from audiotag.errors import ConfigError, DataError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.losses import LOSSES, build_loss
from tests.tiny import tiny_labels

NAN = math.nan
SHAPE = (6, 4)
KINDS = [
    {"name": "bce"},
    {"name": "bce", "label_smoothing": 0.1},
    {"name": "ce"},
    {"name": "ce", "label_smoothing": 0.1},
    {"name": "focal"},
    {"name": "focal", "gamma": 0.5, "alpha": 0.25, "label_smoothing": 0.1},
]


def loss_of(section, num_classes=SHAPE[1], counts=None):
    """The loss as a configuration with this `loss` section has it."""
    resolved = Config.model_validate({"loss": section}).loss.model_dump()
    return build_loss(resolved, tiny_labels(num_classes), counts)


def weighted(section):
    """The loss with weights of four different classes, and the weights."""
    counts = np.array([1, 2, 4, 40])
    return loss_of({**section, "class_weights": "balanced"}, counts=counts), (1 / counts) / (
        1 / counts
    ).mean()


def logits_of(seed=0, shape=SHAPE, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def soft_targets(seed=1, shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hard_targets(seed=1, shape=SHAPE):
    return soft_targets(seed, shape).round()


def one_hot(seed=1, shape=SHAPE):
    return functional.one_hot(soft_targets(seed, shape).argmax(dim=1), shape[1]).double()


def with_unknown(targets, seed=2, share=0.4):
    unknown = soft_targets(seed, tuple(targets.shape)) < share
    return targets.where(~unknown, NAN), unknown


@pytest.mark.parametrize("targets", [hard_targets(), soft_targets()])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bce_is_torchs(targets, smoothing):
    loss, weights = weighted({"name": "bce", "label_smoothing": smoothing})
    moved = targets * (1 - smoothing) + 0.5 * smoothing
    expected = functional.binary_cross_entropy_with_logits(logits_of(), moved, torch.from_numpy(weights))
    torch.testing.assert_close(loss(logits_of(), targets), expected, rtol=1e-6, atol=0)
    plain = functional.binary_cross_entropy_with_logits(logits_of(), targets)
    torch.testing.assert_close(loss_of({"name": "bce"})(logits_of(), targets), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ce_is_torchs(smoothing):
    section = {"name": "ce", "label_smoothing": smoothing}
    loss, weights = weighted(section)
    mixed = 0.3 * one_hot(1) + 0.7 * one_hot(5)
    options = {"weight": torch.from_numpy(weights), "label_smoothing": smoothing}
    torch.testing.assert_close(
        loss(logits_of(), mixed), functional.cross_entropy(logits_of(), mixed, **options), rtol=1e-6, atol=0
    )
    by_index = functional.cross_entropy(logits_of(), one_hot().argmax(1), label_smoothing=smoothing)
    torch.testing.assert_close(loss_of(section)(logits_of(), one_hot()), by_index, rtol=1e-12, atol=0)


@pytest.mark.parametrize("targets", [hard_targets(), soft_targets()])
def test_focal_with_gamma_0_is_bce(targets):
    for smoothing in (0.0, 0.2):
        bce = loss_of({"name": "bce", "label_smoothing": smoothing})
        focal = loss_of({"name": "focal", "gamma": 0.0, "label_smoothing": smoothing})
        torch.testing.assert_close(focal(logits_of(), targets), bce(logits_of(), targets), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_what_its_paper_defines(gamma, alpha):
    targets, p = hard_targets(), logits_of().sigmoid()
    p_t, alpha_t = p.where(targets == 1, 1 - p), torch.ones(SHAPE, dtype=torch.float64)
    if alpha is not None:
        alpha_t = torch.full(SHAPE, alpha, dtype=torch.float64).where(targets == 1, 1 - alpha)
    expected = (-alpha_t * (1 - p_t) ** gamma * p_t.log()).mean()
    loss = loss_of({"name": "focal", "gamma": gamma, "alpha": alpha})
    torch.testing.assert_close(loss(logits_of(), targets), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("section", KINDS)
def test_gradients(section):
    """Against numeric ones in float64, with soft and unknown targets and weights."""
    loss, _ = weighted(section)
    targets, _ = with_unknown(soft_targets())
    targets[0] = NAN
    targets[1] = 0.0
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits_of().requires_grad_())


@pytest.mark.parametrize("section", KINDS)
def test_unknown_entries_contribute_nothing(section):
    """Whatever their logits are: the loss stays what it was, and their gradients are exactly 0."""
    loss, _ = weighted(section)
    targets, unknown = with_unknown(one_hot())
    targets[3], unknown[3] = NAN, True
    values = []
    for filler in (0.0, -5.0, 1e30, math.inf, -math.inf, NAN):
        logits = logits_of().float().masked_fill(unknown, filler).requires_grad_()
        value = loss(logits, targets)
        value.backward()
        assert (logits.grad[unknown] == 0).all() and logits.grad.isfinite().all()
        assert logits.grad[~unknown].count_nonzero() > 0
        values.append(value.item())
    assert len(set(values)) == 1


def test_the_mean_counts_unknown_entries():
    targets, unknown = with_unknown(hard_targets())
    terms = functional.binary_cross_entropy_with_logits(logits_of(), hard_targets(), reduction="none")
    expected = terms.masked_fill(unknown, 0.0).sum() / targets.numel()
    torch.testing.assert_close(loss_of({"name": "bce"})(logits_of(), targets), expected)


def test_ce_chooses_among_the_known_classes():
    """A clip of which two classes are unknown is judged as if these did not exist."""
    logits, targets = logits_of(), torch.tensor([[NAN, 1.0, NAN, 0.0]], dtype=torch.float64)
    for smoothing in (0.0, 0.3):
        loss = loss_of({"name": "ce", "label_smoothing": smoothing})
        expected = functional.cross_entropy(logits[:1, [1, 3]], torch.tensor([0]), label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits[:1], targets), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_ce_of_clips_without_labels_is_0(smoothing):
    loss = loss_of({"name": "ce", "label_smoothing": smoothing})
    targets = one_hot()
    targets[::2] = 0.0
    logits = logits_of().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    torch.testing.assert_close(value, loss(logits[1::2], targets[1::2]) / 2)
    assert not logits.grad[::2].any() and logits.grad[1::2].all()


@pytest.mark.parametrize("section", KINDS)
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_mixture_costs_what_its_parts_cost(section, share, seed):
    loss, _ = weighted(section)
    logits, one, other = logits_of(seed), one_hot(seed), one_hot(seed + 1)
    mixed = loss(logits, share * one + (1 - share) * other)
    torch.testing.assert_close(mixed, share * loss(logits, one) + (1 - share) * loss(logits, other))


@pytest.mark.parametrize("section", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), clips=st.integers(1, 5))
def test_two_processes_have_the_loss_of_one(section, seed, clips):
    """The mean of the losses of two batches is the loss of both together, unknown targets or not."""
    loss, _ = weighted(section)
    shape = (2 * clips, SHAPE[1])
    logits, targets = logits_of(seed, shape), with_unknown(one_hot(seed, shape), seed)[0]
    parts = [loss(logits[part], targets[part]) for part in (slice(clips), slice(clips, None))]
    torch.testing.assert_close(sum(parts) / 2, loss(logits, targets))


@pytest.mark.parametrize("section", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    logits=st.lists(st.floats(-6e4, 6e4, width=16), min_size=4, max_size=4),
    targets=st.lists(st.sampled_from([0.0, 0.25, 1.0, NAN]), min_size=4, max_size=4),
)
def test_any_half_precision_logits(section, logits, targets):
    """Half precision only rounds before the loss: value and gradient are those of float32, and finite."""
    loss, _ = weighted(section)
    targets = torch.tensor([targets])
    half = torch.tensor([logits], dtype=torch.float16, requires_grad=True)
    full = half.detach().float().requires_grad_()
    values = [loss(half, targets), loss(full, targets)]
    for value in values:
        value.backward()
    assert values[0].dtype == torch.float32 and values[0].isfinite() and values[0] >= 0
    assert values[0] == values[1]
    assert torch.equal(half.grad, full.grad.half()) and full.grad.isfinite().all()


@pytest.mark.parametrize("section", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_exact_where_probabilities_are_tiny(section, dtype):
    """Confident entries: in half precision 1 - p would be 0 and log p minus infinity."""
    loss = loss_of(section)
    logits = torch.tensor([[-20.0, 12.0, 24.0, -9.0]], dtype=dtype)
    targets = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    exact = loss(logits.double(), targets.double())
    torch.testing.assert_close(loss(logits, targets).double(), exact, rtol=1e-6, atol=1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits, targets).double(), exact, rtol=1e-6, atol=1e-12)


def test_focal_has_a_slope_where_the_probability_rounds_to_1():
    """Powers of 1 - p have an infinite one at p = 1 for gamma below 1."""
    logits = torch.tensor([[200.0, -200.0, 30.0, 0.0]], requires_grad=True)
    loss_of({"name": "focal", "gamma": 0.5})(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]])).backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 2] < 0


def test_balanced_weights():
    """By the inverse of the counts; a class without clips keeps the weight 1, and the mean is 1."""
    counts = np.array([10, 0, 20, 40])
    weights = loss_of({"name": "bce", "class_weights": "balanced"}, counts=counts).weights.double().numpy()
    np.testing.assert_allclose(weights[[0, 2, 3]] * counts[[0, 2, 3]], weights[0] * 10, rtol=1e-6)
    assert weights[1] == 1 and weights.mean() == pytest.approx(1)
    nothing = loss_of({"name": "bce", "class_weights": "balanced"}, counts=np.zeros(4))
    assert nothing.weights.tolist() == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="needs the counts of a training set"):
        loss_of({"name": "bce", "class_weights": "balanced"})


def test_weights_of_a_list(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("\ufeffmid,weight\n/m/002, 3\n/m/000,0\n\n/m/003,1e0\n/m/001,.5\n", encoding="utf-8")
    loss = loss_of({"name": "bce", "class_weights": str(path)})
    torch.testing.assert_close(loss.weights, torch.tensor([0, 0.5, 3, 1]) / 1.125)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/m/000,1\n/m/001,1\n/m/009,1\n", "line 4: '/m/009' is not a MID of the label list; is /m/00"),
        (
            "/m/000,1\n/m/003,1\n",
            r"no weight for 2 of 4 classes: /m/001 \(class 1\), /m/002 \(class 2\); add",
        ),
        ("/m/000,-1\n", "line 2: the weight of /m/000 must be 0 or more, found '-1'"),
        ("/m/000,nan\n", "must be 0 or more, found 'nan'"),
        ("/m/000,inf\n", "must be 0 or more, found 'inf'"),
        ("/m/000,1e999\n", "must be 0 or more, found '1e999'"),
        ("/m/000\n", "line 2: expected mid,weight, found '/m/000'"),
        ("/m/000,1\n/m/000,2\n", "line 3: /m/000 has a weight already"),
        ("/m/000,0\n/m/001,0\n/m/002,0\n/m/003,0\n", "all weights are 0"),
        ('/m/000,"1\n', "not a list of class weights"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "weights.csv"
    path.write_text("mid,weight\n" + text)
    with pytest.raises(DataError, match=message) as error:
        loss_of({"name": "ce", "class_weights": str(path)})
    assert str(path) in str(error.value)


def test_what_is_no_list_of_weights(tmp_path):
    with pytest.raises(ConfigError, match="ballanced not found; expected none, balanced or a CSV file"):
        loss_of({"name": "bce", "class_weights": "ballanced"})
    path = tmp_path / "weights.csv"
    for content in (b"", b"weight,mid\n", b"/m/000,1\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="the first line must be mid,weight, found"):
            loss_of({"name": "bce", "class_weights": str(path)})
    path.write_bytes(b"mid,weight\n\xff,1\n")
    with pytest.raises(DataError, match="not a list of class weights"):
        loss_of({"name": "bce", "class_weights": str(path)})
    with pytest.raises(DataError, match="cannot be read"):
        loss_of({"name": "bce", "class_weights": str(tmp_path)})


def test_every_loss_of_the_configuration_exists():
    assert {section["name"] for section in KINDS} == set(LOSSES)


@pytest.mark.parametrize("section", KINDS)
def test_the_weights_travel_with_the_module(section):
    """What a loss needs to be built again elsewhere: its section, and its state without the counts."""
    loss, _ = weighted(section)
    again = loss_of(section)
    again.load_state_dict(loss.state_dict())
    assert again(logits_of(), one_hot()) == loss(logits_of(), one_hot())
    assert loss.double().weights.dtype == torch.float64


@pytest.mark.parametrize(
    "section", [{"name": "ce"}, {"name": "ce", "label_smoothing": 0.1}, {"name": "focal"}]
)
def test_what_is_trained_is_measured(section):
    """A linear model learns separable classes of one label each; the metrics say so."""
    generator = torch.Generator().manual_seed(0)
    targets = functional.one_hot(torch.arange(80) % 4, 4).float()
    inputs = targets + 0.1 * torch.randn(80, 4, generator=generator)
    weights = torch.zeros(4, 4, requires_grad=True)
    loss, optimizer = loss_of(section), torch.optim.SGD([weights], lr=5.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(inputs @ weights, targets).backward()
        optimizer.step()
    summary = compute_metrics((inputs @ weights).detach().numpy(), targets.numpy()).summary
    assert summary["accuracy"] == summary["mAP"] == summary["top1_in_labels"] == 1.0


@pytest.mark.parametrize("section", KINDS, ids=str)
def test_the_sum_is_the_mean_times_what_it_is_taken_of(section):
    logits, targets = logits_of(), one_hot()
    mean, total = loss_of(section), loss_of({**section, "reduction": "sum"})
    terms = len(targets) if section["name"] == "ce" else targets.numel()
    torch.testing.assert_close(total(logits, targets), terms * mean(logits, targets))
    # What the log shows.
    torch.testing.assert_close(total.as_mean(total(logits, targets), targets), mean(logits, targets))
    torch.testing.assert_close(mean.as_mean(mean(logits, targets), targets), mean(logits, targets))
    # A batch in two halves has the sum of their sums.
    halves = total(logits[:2], targets[:2]) + total(logits[2:], targets[2:])
    torch.testing.assert_close(halves, total(logits, targets))
