"""Numbers that are not finite: the first module is named, and a dump shows the same again."""

from __future__ import annotations

import pytest
import torch

from audiotag.errors import CheckpointError
from audiotag.losses import build_loss
from audiotag.tagger import build_tagger
from audiotag.training.divergence import StepInput, dump, investigate, replay
from tests.tiny import tiny_config, tiny_labels, tiny_tagger

IDS = ["a", "b", "c"]


def step_input(seed: int = 5) -> StepInput:
    """A batch of three clips for the tiny model."""
    generator = torch.Generator().manual_seed(seed)
    return StepInput(
        features=torch.randn(3, 64, 128, generator=generator),
        lengths=torch.full((3,), 64),
        targets=torch.rand(3, 3, generator=generator).round(),
        ids=IDS,
        seed=seed,
    )


@pytest.fixture
def tagger():
    return tiny_tagger().train()


@pytest.fixture
def loss():
    return build_loss(tiny_config()["loss"], tiny_labels())


def test_nothing_is_found_where_all_is_finite(tagger, loss):
    unknown = step_input()
    unknown.targets[0, 1] = float("nan")
    assert investigate(tagger, loss, [step_input(), unknown]) is None
    assert all(parameter.grad is None for parameter in tagger.parameters())


def test_a_clip_with_bad_features_is_named(tagger, loss):
    batch = step_input()
    batch.features[1, 7, 3] = float("inf")
    finding = investigate(tagger, loss, [step_input(), batch])
    assert (finding.place, finding.ids, finding.bad) == ("input", ["b"], 1)
    assert "the features of the batch: 1 of 24576 values are not finite (clips b)" in str(finding)


def test_weights_that_are_bad_already_are_named(tagger, loss):
    with torch.no_grad():
        tagger.encoder.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    finding = investigate(tagger, loss, [step_input()])
    assert (finding.place, finding.module) == ("weights", "encoder.blocks.1.mlp.fc1")


def test_the_module_whose_output_overflows_is_named(tagger, loss):
    with torch.no_grad():
        tagger.encoder.blocks[0].mlp.fc2.weight.fill_(1e30)
        tagger.encoder.blocks[0].mlp.fc1.bias.fill_(1e30)
    finding = investigate(tagger, loss, [step_input()])
    assert (finding.place, finding.module) == ("forward", "encoder.blocks.0.mlp.fc2")
    assert "the output of encoder.blocks.0.mlp.fc2 in the forward pass" in str(finding)


def test_only_the_clip_that_overflows_is_named(tagger, loss):
    batch = step_input()
    batch.features[2] *= 1e38
    with torch.no_grad():
        tagger.encoder.patch_embed.proj.weight.fill_(100.0)
    finding = investigate(tagger, loss, [batch])
    assert (finding.module, finding.ids) == ("encoder.patch_embed.proj", ["c"])


def test_what_a_module_computes_between_its_parts_is_its_own(tagger, loss):
    # The products of queries and keys overflow inside the attention, before its last layer.
    with torch.no_grad():
        tagger.encoder.blocks[1].attn.qkv.bias.fill_(1e25)
    finding = investigate(tagger, loss, [step_input()])
    assert (finding.place, finding.module) == ("forward", "encoder.blocks.1.attn")
    assert "hands to encoder.blocks.1.attn.proj" in str(finding)


def test_half_precision_overflows_where_single_does_not(tagger, loss):
    with torch.no_grad():
        tagger.encoder.blocks[1].mlp.fc2.bias.fill_(7e4)
    assert investigate(tagger, loss, [step_input()]) is None
    finding = investigate(tagger, loss, [step_input()], amp="fp16")
    assert (finding.place, finding.module) == ("forward", "encoder.blocks.1.mlp.fc2")


def test_a_gradient_that_overflows_is_found_in_the_backward_pass(tagger, loss):
    assert investigate(tagger, loss, [step_input()], amp="fp16", scale=1.0) is None
    finding = investigate(tagger, loss, [step_input()], amp="fp16", scale=2.0**40)
    # Head and last norm are computed in float32: the way back enters half precision behind them.
    assert (finding.place, finding.module) == ("backward", "encoder.blocks.1.mlp.fc2")
    assert "the gradient at the output of encoder.blocks.1.mlp.fc2 in the backward pass" in str(finding)


def test_a_gradient_of_weights_alone_is_found(tagger, loss):
    """The first layer's input has no gradient; that of its weights sums over many patches."""
    batch = step_input()
    batch.features.mul_(1e30)
    with torch.no_grad():
        tagger.encoder.patch_embed.proj.weight.mul_(1e-30)
    finding = investigate(tagger, loss, [batch], scale=1e12)
    assert (finding.place, finding.module) == ("backward", "encoder.patch_embed.proj")
    assert str(finding).startswith("the gradient of encoder.patch_embed.proj.weight in the backward pass")


def test_a_loss_that_overflows_is_the_loss(tagger, loss):
    with torch.no_grad():
        loss.weights.fill_(3e38)
        tagger.head.bias.fill_(50.0)
    finding = investigate(tagger, loss, [step_input()])
    assert (finding.place, finding.ids) == ("loss", IDS)


def test_hooks_do_not_stay(tagger, loss):
    investigate(tagger, loss, [step_input()])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tagger.modules())
    assert not any(parameter._backward_hooks for parameter in tagger.parameters())


def test_compiled_models_are_watched_too(tagger, loss):
    tagger.compile(backend="eager")
    tagger(step_input().features, step_input().lengths)
    with torch.no_grad():
        tagger.encoder.blocks[0].mlp.fc2.weight.fill_(1e30)
        tagger.encoder.blocks[0].mlp.fc1.bias.fill_(1e30)
    assert investigate(tagger, loss, [step_input()]).module == "encoder.blocks.0.mlp.fc2"


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_makes_the_same_random_choices(tmp_path, seed):
    """With dropout 0.5 it is chance whether the one bad value of a unit is dropped."""
    config = tiny_config()
    config["encoder"]["dropout"] = 0.5
    tagger = rebuilt(config)
    with torch.no_grad():
        tagger.encoder.pos_embed[0, 0, seed] = 3e38
        tagger.encoder.pos_embed[0, 1, :2] = 3e38
    loss = build_loss(config["loss"], tiny_labels())
    batch = step_input(seed)
    found = investigate(tagger, loss, [batch])
    dump(tmp_path / "d.pt", tagger, loss, [batch], config=config, step=3, finding=found)
    torch.manual_seed(99)
    again = replay(tmp_path / "d.pt")
    assert again == found
    assert torch.load(tmp_path / "d.pt", weights_only=True)["step"] == 3


def rebuilt(config: dict):
    """A model of a configuration, in training mode."""
    torch.manual_seed(0)
    return build_tagger(config["features"], config["encoder"], tiny_labels()).train()


def test_a_replay_knows_class_weights_scale_and_parts_at_rest(tmp_path):
    config = tiny_config()
    config["encoder"]["dropout"] = 0.5
    config["training"]["amp"] = "fp16"
    config["loss"]["class_weights"] = "balanced"
    tagger = rebuilt(config)
    tagger.encoder.eval()
    loss = build_loss(config["loss"], tiny_labels(), class_counts=torch.tensor([1, 2, 3]).numpy())
    for scale in (1.0, 2.0**40):
        found = investigate(tagger, loss, [step_input()] * 2, amp="fp16", scale=scale, group_size=2)
        dump(tmp_path / "d.pt", tagger, loss, [step_input()] * 2, config=config, step=3, scale=scale)
        assert replay(tmp_path / "d.pt") == found
    assert found is not None


def test_other_files_are_not_dumps(tmp_path):
    with pytest.raises(CheckpointError, match="dump not found"):
        replay(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(CheckpointError, match="damaged or not a dump"):
        replay(tmp_path / "text.pt")
    torch.save({"format": "other"}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a dump that this audiotag can replay"):
        replay(tmp_path / "other.pt")
