"""Weights of one model given to another: blocks chosen, classes matched, what does not fit named."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from audiotag.config import Config
from audiotag.errors import ConfigError
from audiotag.interop.sourcemodel import SourceModel, make_layout
from audiotag.interop.transfer import find_rows, transfer_weights
from audiotag.labels import Label, LabelTable
from audiotag.tagger import build_tagger
from tests.export.models import SMALL_BEATS, SMALL_ZIPFORMER
from tests.tiny import TINY, tiny_labels

BLOCKS = 5


def sections(base=TINY, **encoder):
    tree = {**base, "encoder": {**base["encoder"], **encoder}}
    config = Config.model_validate(tree).model_dump(mode="json")
    return config["features"], config["encoder"]


def tagger(labels=None, seed=1, base=TINY, **encoder):
    torch.manual_seed(seed)
    features, settings = sections(base, **encoder)
    return build_tagger(features, settings, labels or tiny_labels()), settings


def source(labels=None, base=TINY, **encoder):
    model, settings = tagger(labels, seed=0, base=base, **encoder)
    features, _ = sections(base, **encoder)
    weights = {
        name: torch.full_like(value, index + 1.0)
        for index, (name, value) in enumerate(model.state_dict().items())
    }
    # Every row of the head is another one.
    weights["head.weight"] = (
        torch.arange(weights["head.weight"].numel()).view_as(weights["head.weight"]).float()
    )
    weights["head.bias"] = torch.arange(len(model.labels)).float()
    layout = make_layout(features, settings)
    return SourceModel(Path("model"), (), weights, settings, features, layout, model.labels)


def rename(labels, **names):
    """The classes with other MIDs, so that their names alone are the same."""
    return LabelTable([Label(i, f"/other/{i}", label.name) for i, label in enumerate(labels)])


def test_all_of_the_same_model_is_taken():
    ours, settings = tagger()
    theirs = source()
    transfer = transfer_weights(ours, settings, theirs)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.weights[name]), name
    assert (transfer.adapted, transfer.fresh, transfer.left) == ([], [], [])
    assert transfer.taken == ["encoder (31 tensors)", "head (3 classes)"]


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_are_matched_by_mid_else_by_name(by_name):
    labels = tiny_labels(5)
    order = [3, 0, 4, 1, 2]
    shuffled = LabelTable([Label(i, labels[old].mid, labels[old].name) for i, old in enumerate(order)])
    ours, settings = tagger(rename(shuffled) if by_name else shuffled)
    theirs = source(labels)
    transfer = transfer_weights(ours, settings, theirs)
    assert torch.equal(ours.head.weight, theirs.weights["head.weight"][order])
    assert torch.equal(ours.head.bias, theirs.weights["head.bias"][order])
    assert torch.equal(ours.head_norm.weight, theirs.weights["head_norm.weight"])
    assert transfer.adapted == ["order of the classes"]


def test_a_head_for_some_of_the_classes_is_kept_only_by_request():
    labels = tiny_labels(5)
    some = LabelTable([Label(i, labels[old].mid, labels[old].name) for i, old in enumerate((4, 1))])
    theirs = source(labels)
    ours, settings = tagger(some)
    before = ours.head.weight.clone()
    transfer = transfer_weights(ours, settings, theirs)
    assert torch.equal(ours.head.weight, before)
    assert transfer.fresh == ["head with its LayerNorm (2 classes here, 5 there)"]
    assert transfer.left == ["head of 5 classes"]
    transfer = transfer_weights(ours, settings, theirs, head="keep")
    assert torch.equal(ours.head.weight, theirs.weights["head.weight"][[4, 1]])
    assert transfer.left == ["3 other classes of the head"]


@pytest.mark.parametrize("head", ["auto", "fresh"])
def test_a_fresh_head_comes_with_its_norm(head):
    ours, settings = tagger()
    others = LabelTable([Label(i, f"/x/{i}", f"other {i}") for i in range(3)])
    theirs = source(others if head == "auto" else None)
    before = {name: value.clone() for name, value in ours.state_dict().items() if name.startswith("head")}
    transfer = transfer_weights(ours, settings, theirs, head=head)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())
    why = "as asked for" if head == "fresh" else "the model does not know class 0, class 1, class 2"
    assert transfer.fresh == [f"head with its LayerNorm ({why})"]
    assert torch.equal(ours.encoder.cls_token, theirs.weights["encoder.cls_token"])


def test_a_head_that_cannot_be_kept_is_refused_and_nothing_is_changed():
    ours, settings = tagger(tiny_labels(4))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ConfigError, match="head of model cannot be kept: the model does not know class 3;"):
        transfer_weights(ours, settings, source(), head="keep")
    nameless = dataclasses.replace(source(), labels=None)
    with pytest.raises(ConfigError, match=r"does not name its classes; import it with .*--labels first"):
        transfer_weights(ours, settings, nameless, head="keep")
    assert transfer_weights(*tagger(), nameless).fresh[0].endswith("(the model does not name its classes)")
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())


def test_a_name_of_two_classes_tells_nothing():
    theirs = LabelTable([Label(0, "a", "Bell"), Label(1, "b", "bell"), Label(2, "c", "Dog")])
    ours = LabelTable([Label(0, "x", "bell"), Label(1, "y", " dog"), Label(2, "b", "other")])
    assert find_rows(ours, theirs) == [None, 2, 1]


def test_every_second_block():
    ours, settings = tagger(depth=3)
    theirs = source(depth=6)
    transfer = transfer_weights(ours, settings, theirs, layers=[0, 2, 4])
    for new, old in enumerate((0, 2, 4)):
        for name, value in ours.encoder.blocks[new].state_dict().items():
            assert torch.equal(value, theirs.weights[f"encoder.blocks.{old}.{name}"]), name
    for name in ("encoder.pos_embed", "encoder.norm.weight", "head.weight", "head_norm.bias"):
        assert torch.equal(ours.state_dict()[name], theirs.weights[name])
    assert "blocks 0, 2, 4" in transfer.taken
    assert transfer.left == ["blocks 1, 3, 5"]
    # In any order, and one more than once.
    transfer_weights(ours, settings, theirs, layers=[5, 5, 0])
    first, second, _ = (block.attn.qkv.weight for block in ours.encoder.blocks)
    assert torch.equal(first, theirs.weights["encoder.blocks.5.attn.qkv.weight"])
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (None, "encoder.depth is 3, the model in model has 6 blocks: init.layers can choose"),
        ([0, 1], "init.layers names 2 blocks, but encoder.depth is 3"),
        ([0, 1, 6], "init.layers names block 6, but the model in model has 6, from 0 on"),
    ],
)
def test_blocks_that_do_not_fit(layers, words):
    ours, settings = tagger(depth=3)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        transfer_weights(ours, settings, source(depth=6), layers=layers)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"embed_dim": 32}, r"encoder\.embed_dim is 16, there 32"),
        ({"mlp_ratio": 2.0}, r"encoder\.mlp_ratio is 4\.0, there 2\.0"),
        ({"patch_size": 8, "freq_stride": 16, "time_stride": 16}, r"encoder\.patch_size is 16, there 8"),
        ({"num_heads": 4}, r"of other attention heads: encoder\.num_heads is 2, there 4"),
    ],
)
def test_other_sizes_are_refused_with_the_key_and_both_values(encoder, words):
    ours, settings = tagger()
    with pytest.raises(ConfigError, match=words):
        transfer_weights(ours, settings, source(**encoder))


def test_other_eps_are_warned_of_and_other_settings_said(caplog):
    ours, settings = tagger(block_norm_eps=1e-12, dropout=0.3)
    with caplog.at_level(logging.INFO):
        transfer_weights(ours, settings, source())
    warning, info = caplog.records
    assert warning.levelname == "WARNING"
    assert "encoder.block_norm_eps is 1e-12, there 1e-06" in warning.getMessage()
    assert "set encoder.block_norm_eps=1e-06" in warning.getMessage()
    assert "encoder.dropout is 0.3, there 0.0" in info.getMessage()


def test_another_stride_adapts_the_positions():
    ours, settings = tagger(freq_stride=8)
    theirs = source()
    transfer = transfer_weights(ours, settings, theirs)
    assert transfer.adapted == ["position embedding from 8 x 4 to 15 x 4 patches (frequency interpolated)"]
    assert ours.encoder.pos_embed.shape[1] == 62


def test_layers_of_a_beats(caplog):
    ours, settings = tagger(base=SMALL_BEATS, depth=2)
    theirs = source(base=SMALL_BEATS, depth=4)
    with pytest.raises(ConfigError, match=r"encoder\.depth is 2, .* has 4 blocks: init\.layers can choose"):
        transfer_weights(ours, settings, theirs)
    transfer = transfer_weights(ours, settings, theirs, layers=[3, 1])
    for new, old in enumerate((3, 1)):
        for name, value in ours.encoder.blocks[new].state_dict().items():
            assert torch.equal(value, theirs.weights[f"encoder.encoder.layers.{old}.{name}"]), name
    table = "encoder.relative_attention_bias.weight"
    assert torch.equal(ours.state_dict()[table], theirs.weights[table])
    assert (transfer.taken[0], transfer.left) == ("blocks 3, 1", ["blocks 0, 2"])
    assert "DeepNorm scales residuals by the number of layers" in caplog.text
    caplog.clear()
    transfer_weights(*tagger(base=SMALL_BEATS, depth=4), theirs)
    assert not caplog.records


def test_settings_of_a_beats_that_shapes_do_not_show_are_warned_of(caplog):
    theirs = source(base=SMALL_BEATS)
    transfer_weights(*tagger(base=SMALL_BEATS, max_distance=99, deep_norm=False, freeze=True), theirs)
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "encoder.max_distance is 99, there " in warning.getMessage()
    assert "to have its own, set encoder.deep_norm=true, encoder.max_distance=" in warning.getMessage()
    caplog.clear()
    with pytest.raises(ConfigError, match=r"encoder\.gated_bias is False, there True"):
        transfer_weights(*tagger(base=SMALL_BEATS, gated_bias=False), theirs)
    assert "encoder.gated_bias=true" in caplog.text


def test_zipformers_too(caplog):
    ours, settings = tagger(base=SMALL_ZIPFORMER, num_encoder_layers=[1, 2, 1], query_head_dim=[8, 8, 8])
    theirs = source(base=SMALL_ZIPFORMER)
    transfer_weights(ours, settings, theirs)
    assert all(torch.equal(value, theirs.weights[name]) for name, value in ours.state_dict().items())
    with pytest.raises(
        ConfigError,
        match=r"init\.layers needs an encoder made of blocks that are all alike, which Zipformer is not",
    ):
        transfer_weights(ours, settings, theirs, layers=[0])
    with pytest.raises(
        ConfigError, match=r"encoder\.name is zipformer, the model in model has the encoder ast"
    ):
        transfer_weights(ours, settings, source())
    other, settings = tagger(base=SMALL_ZIPFORMER, feedforward_dim=[32, 96, 32])
    with pytest.raises(
        ConfigError, match=r"encoder\.feedforward_dim is \[32, 96, 32\], there \[32, 64, 32\]"
    ):
        transfer_weights(other, settings, theirs)
