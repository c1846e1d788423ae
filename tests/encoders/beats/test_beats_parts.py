"""The parts of BEATs: the bias by distance, the positional convolution, gates, dropouts, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.utils import parametrizations

from audiotag.config import Config
from audiotag.encoders.beats.encoder import Beats
from audiotag.encoders.beats.layer import Attention, Layer
from audiotag.encoders.beats.positions import PositionalConvolution, RelativeBias, buckets_of
from tests.encoders.beats.reference import tiny_beats, vectors


@pytest.mark.parametrize("sizes", [(32, 64), (320, 800), (320, 1280)])
def test_buckets(sizes):
    recorded = vectors("extras")
    name = "{}_{}".format(*sizes)
    offsets = recorded[f"offsets.{name}"].long()
    assert torch.equal(buckets_of(offsets, *sizes), recorded[f"buckets.{name}"].long())
    assert buckets_of(torch.tensor([0, -1, 1]), 320, 800).tolist() == [0, 1, 161]


@pytest.mark.parametrize("num_tokens", [2, 8, 40, 200])
@pytest.mark.parametrize("sizes", [(32, 64), (16, 5), (320, 800)])
def test_the_bias_of_two_tokens_is_that_of_their_distance(num_tokens, sizes):
    """Also of distances beyond the largest that differs."""
    bias = RelativeBias(*sizes, num_heads=3)
    place = torch.arange(num_tokens)
    buckets = buckets_of(place[None, :] - place[:, None], *sizes)
    found = bias(num_tokens)
    assert torch.equal(found, bias.weight[buckets].permute(2, 0, 1))
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad((found * weights).sum(), bias.weight)[0]
    written_out = bias.weight[buckets].permute(2, 0, 1)
    plain = torch.autograd.grad((written_out * weights).sum(), bias.weight)[0]
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-5)


def test_one_table_serves_all_layers_and_lengths():
    encoder = tiny_beats()
    assert [name for name, _ in encoder.named_parameters() if "relative" in name] == [
        "relative_attention_bias.weight"
    ]
    assert not [name for name in encoder.state_dict() if "buckets" in name]


@pytest.mark.parametrize("kernel", [1, 4, 5, 16])
def test_the_positional_convolution_is_weight_norm_over_places(kernel):
    torch.manual_seed(0)
    ours = PositionalConvolution(12, kernel, 3)
    torch.nn.init.normal_(ours.weight_g, mean=1.0)
    torch.nn.init.normal_(ours.bias)
    plain = torch.nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3)
    normed = parametrizations.weight_norm(plain, dim=2)
    normed.load_state_dict(
        {
            "bias": ours.bias,
            "parametrizations.weight.original0": ours.weight_g,
            "parametrizations.weight.original1": ours.weight_v,
        }
    )
    x = torch.randn(2, 20, 12)
    expected = normed(x.transpose(1, 2))[..., :20].transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_a_token_meets_as_many_before_it_as_behind_it_and_one_more():
    convolution = PositionalConvolution(4, 16, 1)
    x = torch.zeros(1, 40, 4)
    quiet = convolution(x)
    x[0, 20] = 1.0
    heard = (convolution(x) != quiet).any(dim=2)[0].nonzero().flatten().tolist()
    assert heard == list(range(13, 29))  # position k hears k-8 to k+7


def test_the_gate():
    """G = g1 (g2 a - 1) + 2, with g1 and g2 of four sums each, one number for a head and query."""
    torch.manual_seed(0)
    attention = Attention(12, 3, gated_bias=True, dropout=0.0)
    torch.nn.init.normal_(attention.grep_a)
    query = torch.randn(2, 3, 5, 4)
    u = query @ attention.grep_linear.weight.T + attention.grep_linear.bias
    g1, g2 = u[..., :4].sum(-1).sigmoid(), u[..., 4:].sum(-1).sigmoid()
    expected = g1 * (g2 * attention.grep_a[..., 0] - 1.0) + 2.0
    torch.testing.assert_close(attention.gate(query)[..., 0], expected)


def test_attention_is_that_of_the_formula():
    torch.manual_seed(0)
    attention = Attention(12, 3, gated_bias=True, dropout=0.0)
    x, bias = torch.randn(2, 7, 12), torch.randn(3, 7, 7)
    key_mask = torch.zeros(2, 1, 1, 7)
    key_mask[1, ..., 5:] = float("-inf")
    q, k, v = (
        projection(x).view(2, 7, 3, 4).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = q @ k.transpose(2, 3) / 2.0 + attention.gate(q) * bias + key_mask
    expected = attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(attention(x, bias, key_mask), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("deep_norm", "scale"), [(True, 24**0.25), (False, 1.0)])
def test_residuals_are_scaled(deep_norm, scale):
    encoder = tiny_beats(depth=12, deep_norm=deep_norm)
    assert [layer.residual_scale for layer in encoder.blocks] == pytest.approx([scale] * 12)


def test_initial_weights():
    torch.manual_seed(0)
    encoder = Beats(embed_dim=192, depth=2, num_heads=4, feedforward_dim=400, conv_kernel=64, conv_groups=8)
    beta = 16**-0.25
    xavier = math.sqrt(2 / (192 + 192))
    stds = {
        "q_proj.weight": xavier,
        "k_proj.weight": xavier,
        "v_proj.weight": beta * xavier,
        "out_proj.weight": beta * xavier,
        "fc1.weight": beta * math.sqrt(2 / 592),
        "fc2.weight": beta * math.sqrt(2 / 592),
        "grep_linear.weight": 0.02,
        "relative_attention_bias.weight": 0.02,
        "pos_conv.0.weight_v": math.sqrt(4 / (64 * 192)),
        "patch_embedding.weight": 1 / 16 / 3**0.5,
        "post_extract_proj.weight": (1 / 512) ** 0.5 / 3**0.5,
    }
    for name, parameter in encoder.named_parameters():
        values = parameter.detach()
        [std] = [std for end, std in stds.items() if name.endswith(end)] or [None]
        if std is not None:
            assert values.std() == pytest.approx(std, rel=0.1), name
        elif name.endswith("weight_g"):
            expected = encoder.encoder["pos_conv"][0].weight_v.detach().square().sum((0, 1)).sqrt()
            torch.testing.assert_close(values[0, 0], expected)
        elif name.endswith("bias") and name != "post_extract_proj.bias":
            assert not values.any(), name
        elif name.endswith(("grep_a", "norm.weight")):
            assert torch.all(values == 1), name
    plain = Beats(embed_dim=192, depth=1, num_heads=4, feedforward_dim=400, conv_groups=8, deep_norm=False)
    assert plain.blocks[0].fc1.weight.detach().std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    "setting",
    ["input_dropout", "dropout", "attention_dropout", "activation_dropout", "output_dropout", "layer_drop"],
)
def test_each_rate_acts_in_training_only(setting):
    encoder = tiny_beats(**{setting: 0.5}).train()
    x, lengths = torch.randn(4, 64, 128), torch.full((4,), 64)
    torch.manual_seed(1)
    assert not torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    torch.testing.assert_close(encoder(x, lengths)[0], tiny_beats().eval()(x, lengths)[0])


def test_where_the_dropouts_of_a_layer_are():
    """All branches dropped leave two norms of the scaled stream."""
    torch.manual_seed(0)
    rates = {"dropout": 1.0 - 1e-9, "attention_dropout": 0.0, "activation_dropout": 0.0}
    layer = Layer(8, 2, 16, residual_scale=1.5, gated_bias=True, **rates).train()
    x = torch.randn(1, 5, 8)
    y = layer(x, torch.zeros(2, 5, 5), torch.zeros(1, 1, 1, 5))
    norm = torch.nn.functional.layer_norm
    torch.testing.assert_close(y, norm(1.5 * norm(1.5 * x, (8,)), (8,)))


def test_there_is_dropout_before_the_first_layer():
    encoder = tiny_beats(dropout=1.0 - 1e-9).train()
    x, inside = torch.randn(2, 8, encoder.output_dim), torch.ones(2, 8, dtype=torch.bool)
    assert not encoder.position(x, inside).any() and encoder.eval().position(x, inside).any()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide embed_dim 768"),
        ({"conv_groups": 5}, "conv_groups 5 does not divide embed_dim 768"),
        ({"max_distance": 80}, "max_distance 80 must be more than a quarter of num_buckets 320"),
        ({"num_buckets": 30}, "multiple of 4"),
        ({"gradient_decay": 0.0}, "greater than 0"),
        ({"layer_drop": 1.0}, "less than 1"),
        ({"padding": "any"}, "'exact' or 'original'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"encoder": {"name": "beats", **section}})
