"""BEATs against activations, losses and gradients of the original, with and without padding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from audiotag.configfile import load_config
from audiotag.encoders.beats.encoder import Beats
from audiotag.encoders.registry import build_encoder, encoder_settings
from audiotag.errors import DataError
from audiotag.losses import BinaryCrossEntropy
from audiotag.tagger import Tagger
from tests.encoders.beats.reference import (
    DATA,
    LABELS,
    SIZES,
    TABLE,
    facts,
    our_name,
    part,
    reference_tagger,
    tiny_beats,
    vectors,
)

ROOT = DATA.parents[2]
FRAMES = {"masked": [118, 68], "nomask": [118, 118]}
SAMPLES = {"masked": [19200, 11000], "nomask": [19200, 19200]}
BCE = BinaryCrossEntropy(torch.ones(len(LABELS)))


@pytest.fixture(scope="module")
def recorded():
    return vectors("tiny_model")


@pytest.fixture(scope="module")
def inputs():
    return vectors("fbank")


@pytest.fixture(params=FRAMES)
def case(request) -> str:
    return request.param


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def activations(tagger: Tagger, x: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the parts of the model give, by the names of the recorded ones."""
    encoder, found = tagger.encoder, {}
    names = {
        "patch_conv": encoder.patch_embedding,
        "patch_ln": encoder.layer_norm,
        "proj": encoder.post_extract_proj,
        "pos_conv": encoder.encoder["pos_conv"],
        "enc_in": encoder.encoder["layer_norm"],
    }
    for index, layer in enumerate(encoder.blocks):
        names[f"layer.{index}"] = layer
        names[f"layer.{index}.attn"] = layer.self_attn
        names[f"layer.{index}.after_attn"] = layer.self_attn_layer_norm
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: found.__setitem__(name, output))
        for name, module in names.items()
    ]
    with torch.no_grad():
        found["logits"] = tagger(x, lengths)
        found["token_logits"] = tagger(x, lengths, frames=True)
    for hook in hooks:
        hook.remove()
    return found


def test_activations(case, recorded, inputs):
    """Of every part, from the recorded features; the padded tokens' too."""
    found = activations(reference_tagger().eval(), inputs["fbank"], torch.tensor(FRAMES[case]))
    found["probs"] = found["logits"].sigmoid()
    expected = part(recorded, f"{case}.act.")
    for name in ("fbank", "mask_frames", "mask_tokens"):
        expected.pop(name, None)
    assert len(expected) == (17 if case == "masked" else 8)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_logits_of_waveforms(case, recorded, inputs):
    with torch.no_grad():
        logits = reference_tagger().eval()(inputs["waveform"], torch.tensor(SAMPLES[case]))
    assert_near(logits, recorded[f"{case}.act.logits"])


def test_logits_of_espnet(inputs):
    logits = reference_tagger().eval()(inputs["waveform"], torch.tensor(SAMPLES["masked"]))
    assert_near(logits.detach(), vectors("extras")["espnet.logits"])


def test_losses(case, recorded, inputs):
    logits = reference_tagger()(inputs["fbank"], torch.tensor(FRAMES[case]))
    assert_near(BCE(logits, recorded["input.target"]).detach(), recorded[f"{case}.loss.bce"][0])


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_every_gradient(ratio, recorded, inputs):
    tagger = reference_tagger(gradient_decay=ratio)
    logits = tagger(inputs["fbank"], torch.tensor(FRAMES["masked"]))
    BCE(logits, recorded["input.target"]).backward()
    expected = {our_name(n): v for n, v in part(recorded, f"masked.grad_ratio{ratio:g}.").items()}
    gradients = {name: parameter.grad for name, parameter in tagger.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        tolerance = 1e-3 * float(expected[name].abs().max()) + 1e-8
        error = float((gradient - expected[name]).abs().max())
        assert error <= tolerance, f"{name}: {error:.3g} > {tolerance:.3g}"


def test_which_tokens_are_a_clips_by_the_original(recorded, inputs):
    frames, tokens = (~recorded[f"masked.act.mask_{kind}"].bool() for kind in ("frames", "tokens"))
    tagger = reference_tagger()
    _, counted = tagger.frontend(inputs["waveform"], torch.tensor(SAMPLES["masked"]))
    assert counted.tolist() == frames.sum(dim=1).tolist() == [118, 68]
    assert tagger.encoder(inputs["fbank"], counted)[1].tolist() == tokens.sum(dim=1).tolist() == [56, 34]
    assert vectors("extras")["espnet.token_lengths"].tolist() == [56, 34]


def test_by_default_only_patches_within_a_clip_are_its_own(inputs):
    """As in the development version of ESPnet."""
    tagger = reference_tagger(padding="exact")
    _, counted = tagger.frontend(inputs["waveform"], torch.tensor(SAMPLES["masked"]))
    recorded = vectors("extras")
    masks = [~recorded[f"espnet_dev.mask_{kind}"].bool() for kind in ("frames", "tokens")]
    assert counted.tolist() == masks[0].sum(dim=1).tolist() == [118, 67]
    assert tagger.encoder(inputs["fbank"], counted)[1].tolist() == masks[1].sum(dim=1).tolist() == [56, 32]


@pytest.mark.parametrize(
    ("frames", "batch_frames", "exact", "original"),
    [
        (368, 998, 184, 184),  # 3.7 s in a batch of 10 s, by the front end's own count of frames
        (370, 998, 184, 185),  # the same by the original's
        (998, 998, 496, 496),
        (1, 998, 8, 1),  # at least one patch
        (31, 31, 8, 8),
        (17, 31, 8, 6),  # groups of three frames
        (20, 23, 8, 8),
    ],
)
def test_numbers_of_tokens(frames, batch_frames, exact, original):
    for padding, expected in (("exact", exact), ("original", original)):
        counts = tiny_beats(padding=padding).num_tokens(torch.tensor([frames]), batch_frames)
        assert counts.tolist() == [expected], padding


def test_a_clip_is_heard_as_alone_whatever_is_behind_it(inputs):
    tagger = reference_tagger(padding="exact").eval()
    waveforms, samples = inputs["waveform"], torch.tensor(SAMPLES["masked"])
    assert tagger.encoder.batch_independent
    with torch.no_grad():
        both = tagger(waveforms, samples)
        alone = tagger(waveforms[1:, :11000], samples[1:])
        longer = tagger(functional.pad(waveforms, (0, 9000)), samples)
        features, frames = tagger.frontend(waveforms, samples)
        features[1, 67:] = 3.0
        scrambled = tagger(features, frames)
    for other in (torch.cat([both[:1], alone]), longer, scrambled):
        assert_near(other, both, 2e-6)


def test_by_the_original_it_is_not(inputs):
    tagger = reference_tagger().eval()
    waveforms, samples = inputs["waveform"], torch.tensor(SAMPLES["masked"])
    assert not tagger.encoder.batch_independent
    alone = tagger(waveforms[1:, :11000], samples[1:])
    assert (tagger(waveforms, samples)[1] - alone[0]).abs().max() > 1e-3


def test_published_size():
    config = load_config(ROOT / "conf/encoders/beats_base.yaml").model_dump(mode="json")
    sections = config["encoder"]
    with torch.device("meta"):
        encoder = build_encoder("beats", num_mel_bins=128, target_frames=None, **encoder_settings(sections))
    listed = facts("params_finetuned_527")
    shapes = {our_name(name): shape for name, shape in listed}
    ours = {f"encoder.{name}": list(value.shape) for name, value in encoder.state_dict().items()}
    head = {"head.weight": [527, 768], "head.bias": [527]}
    assert {**ours, **head} == shapes
    assert len(listed) == 252 and len(shapes) == 241
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 90_717_055
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 90_311_792


@pytest.mark.parametrize("frames", [16, 17, 31, 32, 200])
def test_any_length_trains(frames):
    encoder = tiny_beats().train()
    y, lengths = encoder(torch.randn(2, frames, 128), torch.tensor([frames, max(16, frames // 2)]))
    assert y.shape == (2, 8 * (frames // 16), 48) and int(lengths[0]) == y.shape[1]
    y.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_features_that_do_not_fit_are_refused():
    encoder = tiny_beats()
    with pytest.raises(DataError, match=r"needs 16 frames \(160 ms\) or more, found 15: pad the features"):
        encoder(torch.zeros(1, 15, 128), torch.tensor([15]))
    with pytest.raises(DataError, match=r"128 mel bins, found 80: set features\.preset"):
        encoder(torch.zeros(1, 20, 80), torch.tensor([20]))


@pytest.mark.parametrize("padding", ["exact", "original"])
def test_a_tagger_pads_clips_that_are_too_short(padding):
    tagger = reference_tagger(padding=padding).eval()
    waveforms = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = tagger(waveforms[:1, :500], torch.tensor([500]))
        both = tagger(waveforms, torch.tensor([500, 16000]))
    assert alone.isfinite().all() and both.isfinite().all()
    if padding == "exact":
        assert_near(alone[0], both[0], 2e-6)
    features, frames = tagger.frontend(waveforms[:1, :500], torch.tensor([500]))
    assert features.shape == (1, 16, 128)
    assert frames.tolist() == [16 if padding == "exact" else 1]


def test_layers_are_counted_from_the_input():
    encoder = tiny_beats()
    assert encoder.num_layers == 4 and len(encoder.blocks) == 3
    found = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert {name: layer for name, layer in found.items() if not name.startswith("encoder.layers.")} == {
        "patch_embedding.weight": 0,
        "layer_norm.weight": 0,
        "layer_norm.bias": 0,
        "post_extract_proj.weight": 0,
        "post_extract_proj.bias": 0,
        "encoder.pos_conv.0.weight_g": 0,
        "encoder.pos_conv.0.weight_v": 0,
        "encoder.pos_conv.0.bias": 0,
        "encoder.layer_norm.weight": 0,
        "encoder.layer_norm.bias": 0,
        TABLE: 3,
    }
    assert found["encoder.layers.0.fc1.weight"] == 1
    assert found["encoder.layers.2.self_attn.grep_a"] == 3


def test_a_patch_as_wide_as_the_model_is_not_projected():
    encoder = tiny_beats(patch_dim=48)
    assert not [name for name, _ in encoder.named_parameters() if "post_extract_proj" in name]
    assert encoder(torch.randn(1, 32, 128), torch.tensor([32]))[0].shape == (1, 16, 48)


def test_without_a_gate_the_bias_counts_as_it_is():
    encoder = tiny_beats(gated_bias=False).eval()
    assert not [name for name, _ in encoder.named_parameters() if "grep" in name]
    x, lengths = torch.randn(1, 64, 128), torch.tensor([64])
    before = encoder(x, lengths)[0]
    torch.nn.init.normal_(encoder.relative_attention_bias.weight, std=2.0)
    assert not torch.equal(encoder(x, lengths)[0], before)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("padding", ["exact", "original"])
def test_a_trace_serves_other_lengths(padding, inputs):
    tagger = reference_tagger(padding=padding).eval()
    x = inputs["fbank"]
    with torch.no_grad():
        traced = torch.jit.trace(tagger, (torch.randn(2, 60, 128), torch.tensor([60, 50])))
        for frames in ([118, 68], [32, 20], [16, 16]):
            cut, lengths = x[:, : frames[0]], torch.tensor(frames)
            assert_near(traced(cut, lengths), tagger(cut, lengths), 2e-5)


def test_copies_compute_the_same(inputs):
    tagger = reference_tagger().eval()
    x, lengths = inputs["fbank"], torch.tensor(FRAMES["masked"])
    assert torch.equal(copy.deepcopy(tagger)(x, lengths), tagger(x, lengths))


def test_sizes_of_the_reference_are_those_of_its_configuration():
    cfg = facts("tiny_model_cfg")
    assert {
        "patch_dim": cfg["embed_dim"],
        "embed_dim": cfg["encoder_embed_dim"],
        "depth": cfg["encoder_layers"],
        "num_heads": cfg["encoder_attention_heads"],
        "feedforward_dim": cfg["encoder_ffn_embed_dim"],
        "conv_kernel": cfg["conv_pos"],
        "conv_groups": cfg["conv_pos_groups"],
        "num_buckets": cfg["num_buckets"],
        "max_distance": cfg["max_distance"],
    } == SIZES
    assert Beats(**SIZES).min_frames == cfg["input_patch_size"]
