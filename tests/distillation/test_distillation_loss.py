"""The student's loss against closed forms, and what it trains."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from audiotag.distillation.loss import DistillationLoss, stored_widths
from audiotag.distributed import World
from audiotag.losses import BinaryCrossEntropy, build_loss
from audiotag.optim.optimizers import build_optimizer
from audiotag.training.divergence import StepInput, dump, investigate, replay
from audiotag.training.learner import Learner
from tests.tiny import tiny_config, tiny_labels, tiny_tagger

CLIPS, CLASSES, WIDTH = 4, 3, 16
WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
SECTION = {"alpha": 0.25, "temperature": 3.0, "form": "bce", "feature_weight": 0.0}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label_loss(reduction: str = "mean") -> BinaryCrossEntropy:
    return BinaryCrossEntropy(torch.ones(CLASSES), reduction=reduction)


def case():
    """Logits, labels and soft targets."""
    soft = numbers(CLIPS, CLASSES, seed=1).softmax(dim=1)
    labels = (numbers(CLIPS, CLASSES, seed=2) > 0).double()
    return numbers(CLIPS, CLASSES).requires_grad_(), labels, soft


def test_binary_cross_entropy_of_softened_classes_in_closed_form():
    logits, labels, soft = case()
    loss = DistillationLoss(label_loss(), **SECTION)(logits, torch.cat([labels, soft], dim=1))
    p, q = logits.sigmoid(), (logits / 3.0).sigmoid()
    of_labels = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    of_teacher = -(soft * q.log() + (1 - soft) * (1 - q).log()).mean()
    torch.testing.assert_close(loss, 0.25 * of_labels + 0.75 * 9.0 * of_teacher)
    loss.backward()
    gradient = (0.25 * (p - labels) + 0.75 * 3.0 * (q - soft)) / (CLIPS * CLASSES)
    torch.testing.assert_close(logits.grad, gradient)


def test_divergence_over_the_classes_in_closed_form():
    logits, labels, soft = case()
    section = {**SECTION, "form": "softmax"}
    loss = DistillationLoss(label_loss(), **section)(logits, torch.cat([labels, soft], dim=1))
    q = (logits / 3.0).softmax(dim=1)
    divergence = (soft * (soft.log() - q.log())).sum(dim=1).mean()
    torch.testing.assert_close(loss, 0.25 * label_loss()(logits, labels) + 0.75 * 9.0 * divergence)
    loss.backward()
    p = logits.sigmoid()
    gradient = 0.25 * (p - labels) / (CLIPS * CLASSES) + 0.75 * 3.0 * (q - soft) / CLIPS
    torch.testing.assert_close(logits.grad, gradient)


def test_a_student_that_says_what_the_teacher_says_has_no_divergence():
    logits, labels, _ = case()
    soft = (logits / 3.0).softmax(dim=1).detach()
    loss = DistillationLoss(label_loss(), **{**SECTION, "form": "softmax", "alpha": 0.0})
    assert abs(loss(logits, torch.cat([labels, soft], dim=1)).item()) < 1e-12


@pytest.mark.parametrize("form", ["bce", "softmax"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_labels_alone_are_the_plain_loss_to_the_last_bit(form, reduction):
    logits, labels, soft = case()
    plain = label_loss(reduction)(logits, labels)
    loss = DistillationLoss(label_loss(reduction), alpha=1.0, temperature=1.0, form=form)
    assert torch.equal(loss(logits, torch.cat([labels, soft], dim=1)), plain)


def test_a_sum_has_the_shares_of_the_mean():
    logits, labels, soft = case()
    targets = torch.cat([labels, soft], dim=1)
    mean, total = (DistillationLoss(label_loss(name), **SECTION) for name in ("mean", "sum"))
    torch.testing.assert_close(total(logits, targets), CLIPS * CLASSES * mean(logits, targets))
    torch.testing.assert_close(total.as_mean(total(logits, targets), targets), mean(logits, targets))
    assert total.parts.keys() == {"label_loss", "teacher_loss"}
    for name, part in mean.parts.items():
        torch.testing.assert_close(total.parts[name], part)
    torch.testing.assert_close(mean.parts["label_loss"], label_loss()(logits, labels).detach())


def test_unknown_labels_are_learnt_from_the_teacher():
    logits, labels, soft = case()
    labels[1] = math.nan
    DistillationLoss(label_loss(), **SECTION)(logits, torch.cat([labels, soft], dim=1)).backward()
    q = (logits / 3.0).sigmoid()
    torch.testing.assert_close(logits.grad[1], (0.75 * 3.0 * (q - soft) / (CLIPS * CLASSES))[1].detach())


def test_extreme_logits_in_half_precision_stay_finite():
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    for form in ("bce", "softmax"):
        loss = DistillationLoss(label_loss(), **{**SECTION, "form": form})(logits, targets)
        assert loss.isfinite() and loss.dtype == torch.float32


def with_features(widths=(WIDTH, 24)) -> DistillationLoss:
    torch.manual_seed(0)
    return DistillationLoss(label_loss(), **{**SECTION, "feature_weight": 2.0}, widths=widths)


def test_embeddings_of_another_width_are_mapped():
    logits, labels, soft = case()
    embeddings, theirs = numbers(CLIPS, WIDTH, seed=3).float(), numbers(CLIPS, 24, seed=4).float()
    loss = with_features()
    value = loss((logits, embeddings), torch.cat([labels, soft, theirs], dim=1))
    distance = (loss.projection(embeddings) - theirs).square().mean()
    plain = DistillationLoss(label_loss(), **SECTION)(logits, torch.cat([labels, soft], dim=1))
    torch.testing.assert_close(value, plain + 2.0 * distance.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.parts["feature_loss"], distance.detach())
    assert stored_widths(loss.state_dict()) == (WIDTH, 24)
    assert list(with_features((WIDTH, WIDTH)).parameters()) == []


def step(seed: int = 0, teacher_width: int = 24) -> StepInput:
    """A batch as online teachers leave it."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(CLIPS, 2 * CLASSES + teacher_width, generator=generator)
    features = torch.randn(CLIPS, 64, 128, generator=generator)
    return StepInput(features, torch.full((CLIPS,), 64), targets, list("abcd"), seed)


def learner(**settings) -> Learner:
    tagger, loss = tiny_tagger().train(), with_features()
    section = {
        "name": "adamw",
        "lr": 0.01,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "head_lr_factor": 1.0,
        "layer_decay": 1.0,
        "decay_all": False,
    }
    return Learner(tagger, loss, build_optimizer(section, tagger, loss), WORLD, **settings)


def test_the_map_is_trained_and_its_state_is_the_learners():
    made = learner(clip_norm=1.0)
    assert made.optimizer.param_groups[-1]["name"] == "loss"
    before = made.loss.projection.weight.detach().clone()
    made.add_gradient(step(), 1, last=True)
    made.update(1.0)
    assert not torch.equal(made.loss.projection.weight, before)
    assert made.loss.projection.weight.grad is None
    other = learner(clip_norm=1.0)
    other.tagger.load_state_dict(made.tagger.state_dict())
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    for one in (made, other):
        one.add_gradient(step(seed=1), 1, last=True)
        one.update(1.0)
    assert torch.equal(made.loss.projection.weight, other.loss.projection.weight)
    assert torch.equal(made.tagger.head.weight, other.tagger.head.weight)


def test_the_gradient_of_the_map_counts_for_clipping():
    made, inputs = learner(clip_norm=1e-3), step()
    made.add_gradient(inputs, 1, last=True)
    gradients = [p.grad for module in (made.tagger, made.loss) for p in module.parameters()]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    torch.testing.assert_close(made.update(0.0).norm, norm)


def test_a_plain_loss_leaves_no_trace_in_the_state():
    tagger = tiny_tagger()
    loss = build_loss(tiny_config()["loss"], tiny_labels())
    assert learner().state_dict().keys() == {"optimizer", "scaler", "loss"}
    made = Learner(tagger, loss, build_optimizer(tiny_config()["optimizer"], tagger, loss), WORLD)
    assert made.state_dict().keys() == {"optimizer", "scaler"}
    assert "loss" not in [group["name"] for group in made.optimizer.param_groups]


def test_a_teacher_whose_numbers_go_wrong_is_found_and_replayed(tmp_path):
    loss, tagger = with_features(), tiny_tagger().train()
    assert investigate(tagger, loss, [step()]) is None
    bad = step()
    bad.targets[2, CLASSES + 1] = math.nan
    finding = investigate(tagger, loss, [bad])
    assert (finding.place, finding.ids) == ("input", ["c"])
    assert "what the teachers say: 1 of" in str(finding)
    with torch.no_grad():
        loss.projection.weight[0, 0] = math.inf
    config = {**tiny_config(), "distillation": {**SECTION, "feature_weight": 2.0}}
    dump(tmp_path / "dump.pt", tagger, loss, [step()], config=config, step=3)
    assert replay(tmp_path / "dump.pt").place == "loss"
