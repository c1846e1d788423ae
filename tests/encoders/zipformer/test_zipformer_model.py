"""The tiny Zipformer against the original's outputs and gradients; published sizes, lengths, refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from audiotag.config import Config
from audiotag.configfile import load_config
from audiotag.encoders.registry import build_encoder, encoder_settings
from audiotag.encoders.zipformer import encoder as encoder_module
from audiotag.encoders.zipformer import stack as stack_module
from audiotag.encoders.zipformer.encoder import Zipformer, widest_of_each
from audiotag.encoders.zipformer.layer import Bypass
from audiotag.encoders.zipformer.whiten import Whiten
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import Frontend
from audiotag.losses import BinaryCrossEntropy
from audiotag.tagger import Tagger, build_tagger
from tests.encoders.zipformer.reference import (
    DATA,
    deviation,
    facts,
    force_determinism,
    our_name,
    part,
    reference_tagger,
    tagger_of,
    tiny_zipformer,
    vectors,
)
from tests.tiny import tiny_labels

ROOT = DATA.parents[2]
PUBLISHED = {
    "zipformer_m": ("parameters_normal", 64_264_454),
    "zipformer_s": ("parameters_small", 22_125_218),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return vectors("tiny_eval")


@pytest.fixture
def tagger() -> Tagger:
    return reference_tagger()


def loss_of(tagger: Tagger, expected: dict) -> torch.Tensor:
    """The reference's loss: summed over classes and clips."""
    logits = tagger.from_features(expected["features"], expected["x_lens"])
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, expected["target"], reduction="sum")


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def outputs_of(tagger: Tagger, names: list[str], features, lengths) -> dict[str, torch.Tensor]:
    """What modules of the encoder return, by name."""
    found, hooks = {}, []
    for name in names:
        module = tagger.encoder.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda m, i, o, name=name: found.update({name: o})))
    with torch.no_grad():
        tagger.from_features(features, lengths)
    for hook in hooks:
        hook.remove()
    return found


def test_outputs(tagger, expected):
    x, lengths = expected["features"], expected["x_lens"]
    with torch.no_grad():
        y, y_lengths = tagger.encoder(x, lengths)
        assert_near(tagger.from_features(x, lengths), expected["logits"], 2e-5)
    assert_near(y, expected["encoder_out"], 5e-5)
    assert y_lengths.tolist() == expected["encoder_out_lens"].tolist()
    assert_near(loss_of(tagger, expected).detach(), expected["loss"], 1e-4)
    names = ["encoder_embed", *(f"encoder.encoders.{index}" for index in range(4))]
    found = outputs_of(tagger, names, x, lengths)
    assert_near(found["encoder_embed"], expected["embed_out"], 5e-5)
    for index in range(4):
        assert_near(found[f"encoder.encoders.{index}"].transpose(0, 1), expected[f"stack.{index}"], 1e-4)


def test_outputs_of_inner_modules(tagger, expected):
    recorded = part(expected, "debug.")
    positions = recorded.pop("encoder.encoders.1.encoder.encoder_pos")[0]
    found = outputs_of(tagger, list(recorded), expected["features"], expected["x_lens"])
    assert len(found) == len(recorded) == 19
    for name, value in recorded.items():
        ours = found[name] if name.startswith("encoder_embed") else found[name].transpose(0, 1)
        assert_near(ours, value, 1e-4)
    table = encoder_module.relative_positions(23, 24, positions.device)
    assert_near(table[:-1], positions, 2e-6)


def check_gradients(tagger: Tagger, expected: dict, tolerance: float, wider: tuple[str, ...]) -> None:
    gradients = {name: parameter.grad for name, parameter in tagger.named_parameters()}
    recorded = {our_name(name): value for name, value in part(expected, "grad.").items()}
    assert gradients.keys() == recorded.keys()
    for name, gradient in gradients.items():
        if name.endswith("bypass_scale") and name.split(".")[-2].isdigit():
            assert gradient is None or not gradient.any(), name  # used by nothing
            assert not recorded[name].any()
            continue
        allowed = 5e-4 if name.endswith(wider) else tolerance
        assert deviation(gradient, recorded[name]) < allowed, name


def test_every_gradient_in_evaluation(tagger, expected):
    loss_of(tagger, expected).backward()
    check_gradients(tagger, expected, 5e-5, ("downsample.bias", "downsample_output.bias"))


def test_every_gradient_in_training(tagger, expected, monkeypatch):
    """With all that changes gradients; a third of a typical gradient comes from there."""
    monkeypatch.setattr(stack_module, "POSITION_DROPOUT", 0.0)
    monkeypatch.setattr(encoder_module, "FEATURE_MASK_RATE", 0.0)
    force_determinism(tagger)
    loss = loss_of(tagger, expected)
    loss.backward()
    changed = vectors("tiny_train")
    assert_near(loss.detach(), changed["loss"], 1e-4)
    check_gradients(tagger, changed, 1e-4, ("downsample.bias", "downsample_output.bias", "norm.log_scale"))
    found = dict(
        zip(whiten_names(tagger), tagger.encoder.training_state()["whitening"].tolist(), strict=True)
    )
    recorded = facts("tiny_train_info")["whiten"]
    assert found.keys() == recorded.keys()
    for name, value in recorded.items():
        above = value["metric"] >= value["limit"]
        assert found[name] == pytest.approx(0.25 if above else 0.025), name


def whiten_names(tagger: Tagger) -> list[str]:
    """In the order of the parts of the encoder."""
    names = {module: name for name, module in tagger.encoder.named_modules()}
    parts = [tagger.encoder.encoder_embed, *tagger.encoder.blocks]
    return [names[module] for unit in parts for module in unit.modules() if isinstance(module, Whiten)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    listing, total = PUBLISHED[name]
    config = load_config(ROOT / f"conf/encoders/{name}.yaml").model_dump(mode="json")
    with torch.device("meta"):
        sections = config["encoder"]
        encoder = Zipformer(80, **encoder_settings(sections))
        tagger = tagger_of(encoder, 527)
    ours = [[name, list(value.shape)] for name, value in tagger.state_dict().items()]
    recorded = facts(listing)
    assert recorded["total_parameters"] == total
    assert ours == [[our_name(name), shape] for name, shape in recorded["parameters"]]
    assert sum(parameter.numel() for parameter in tagger.parameters()) == total
    assert not [name for name, _ in tagger.encoder.named_buffers()]


def test_lengths():
    encoder = build_encoder(
        "zipformer",
        num_mel_bins=80,
        target_frames=None,
        num_encoder_layers=1,
        downsampling_factor=[1],
        encoder_dim=8,
        encoder_unmasked_dim=8,
        num_heads=1,
        query_head_dim=4,
        feedforward_dim=8,
        cnn_module_kernel=3,
        pos_dim=4,
    ).eval()
    assert encoder.output_dim == 8
    listed = [entry for entry in facts("schedules")["lengths"] if entry["frames"] < 300]
    assert len(listed) > 5
    for entry in listed:
        x = torch.zeros(1, entry["frames"], 80)
        y, lengths = encoder(x, torch.tensor([entry["frames"]]))
        assert encoder.encoder_embed(x).shape[1] == entry["after_embed"]
        assert lengths.tolist() == [y.shape[1]] == [entry["encoder_out"]]
    long = [entry for entry in facts("schedules")["lengths"] if entry["frames"] >= 300]
    _, lengths = encoder(torch.zeros(len(long), 20, 80), torch.tensor([entry["frames"] for entry in long]))
    assert lengths.tolist() == [entry["encoder_out"] for entry in long]


def test_a_clip_alone_and_longer_padding(tagger, expected):
    """A clip hears nothing of the others, but for its last frames, which meet padding."""
    x, lengths = expected["features"], expected["x_lens"]
    logits = tagger.from_features(x, lengths)
    alone = tagger.from_features(x[:1], lengths[:1])
    assert_near(alone[0], logits[0], 2e-5)
    pad = float(x[2, -1, 0])
    wide = torch.nn.functional.pad(x, (0, 0, 0, 60), value=pad)
    assert (tagger.from_features(wide, lengths)[1:] - logits[1:]).abs().max() < 0.05
    scrambled = x.clone()
    scrambled[2, 45 + 20 :] = 3.0  # beyond what convolutions and groups of frames reach
    assert_near(tagger.from_features(scrambled, lengths)[:2], logits[:2], 1e-5)
    assert (tagger.from_features(scrambled, lengths)[2] - logits[2]).abs().max() < 1e-4
    assert not tagger.encoder.batch_independent


@pytest.mark.parametrize("frames", [9, 10, 11, 13, 47, 97])
def test_any_length_trains(frames):
    torch.manual_seed(0)
    encoder = tiny_zipformer().train()
    lengths = torch.tensor([frames, max(9, frames // 2)])
    y, _ = encoder(torch.randn(2, frames, 80), lengths)
    y.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_features_that_do_not_fit_are_refused():
    encoder = tiny_zipformer()
    with pytest.raises(DataError, match=r"needs 9 frames \(90 ms\) or more, found 8: pad the features"):
        encoder(torch.zeros(1, 8, 80), torch.tensor([8]))
    with pytest.raises(DataError, match=r"80 mel bins, found 128: set features\.preset"):
        encoder(torch.zeros(1, 20, 128), torch.tensor([20]))


def test_a_tagger_pads_clips_that_are_too_short(tagger):
    waves = 0.1 * torch.randn(2, 16000)
    alone = tagger(waves[:1, :400], torch.tensor([400]))
    assert alone.isfinite().all()
    features, frames = tagger.frontend(waves[:1, :400], torch.tensor([400]))
    assert features.shape == (1, 9, 80) and frames.tolist() == [9]
    both = tagger(waves, torch.tensor([400, 16000]))
    assert both.isfinite().all()
    _, frames = tagger.frontend(waves, torch.tensor([400, 16000]))
    assert frames.tolist() == [9, 100]
    stored, frames = tagger.frontend.finish(torch.zeros(1, 3, 80), torch.tensor([3]))
    assert stored.shape == (1, 9, 80) and frames.tolist() == [9]
    # Lengths below it, where somebody else has padded.
    assert tagger.from_features(torch.zeros(2, 30, 80), torch.tensor([2, 30])).isfinite().all()
    # Others keep what they have.
    assert Frontend("icefall80")(waves[:1, :400], torch.tensor([400]))[1].tolist() == [3]


def test_frame_logits(tagger, expected):
    frames = tagger.from_features(expected["features"], expected["x_lens"], frames=True)
    assert frames.shape == (3, 23, 10)
    for index, length in enumerate(expected["encoder_out_lens"].tolist()):
        assert_near(frames[index, :length].mean(dim=0), expected["logits"][index], 2e-5)


def test_layers_are_counted_from_the_input():
    encoder = tiny_zipformer()
    assert encoder.num_layers == 6
    assert len(encoder.blocks) == 5
    found = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert found["encoder_embed.conv.0.weight"] == found["encoder_embed.out_norm.bias"] == 0
    assert found["encoder.encoders.0.layers.0.norm.bias"] == 1
    assert found["encoder.encoders.1.downsample.bias"] == 2
    assert found["encoder.encoders.1.encoder.layers.1.bypass_scale"] == 3
    assert found["encoder.encoders.1.out_combiner.bypass_scale"] == 3
    assert found["encoder.encoders.3.encoder.layers.0.norm.bias"] == 5
    assert found["encoder.downsample_output.bias"] == 5
    assert set(found.values()) == set(range(6))
    order = [layer for name, layer in found.items() if "downsample_output" not in name]
    assert order == sorted(order)


def test_names_are_strict(tagger):
    state = tagger.state_dict()
    state.pop("encoder.encoder.encoders.0.layers.0.bypass_scale")
    with pytest.raises(RuntimeError, match="Missing key"):
        tagger.load_state_dict(state)


def test_channels_come_from_the_last_stack_that_has_them():
    widths = [192, 256, 384, 512, 384, 256]
    outputs = [torch.full((1, 1, width), index) for index, width in enumerate(widths, start=1)]
    y = widest_of_each(outputs)[0, 0]
    assert y.tolist() == [6] * 256 + [5] * 128 + [4] * 128


def test_initial_weights():
    torch.manual_seed(0)
    encoder = Zipformer(
        80,
        num_encoder_layers=1,
        downsampling_factor=[1, 2],
        encoder_dim=128,
        encoder_unmasked_dim=128,
        num_heads=4,
        feedforward_dim=128,
        cnn_module_kernel=15,
    )
    layer = "encoder.encoders.0.layers.0."
    bounds = {  # weight, bias
        "encoder_embed.conv.0": (1 / 3, 1 / 3),
        "encoder_embed.convnext.depthwise_conv": (1 / 7, 1 / 7),
        "encoder_embed.convnext.pointwise_conv2": (0.01 / 384**0.5, 0.001),
        "encoder_embed.out": (1 / 2432**0.5, 1 / 2432**0.5),
        f"{layer}self_attn_weights.in_proj": (32**-0.25 / 128**0.5, 0.1 * 32**-0.25),
        f"{layer}self_attn_weights.linear_pos": (0.05 / 48**0.5, None),
        f"{layer}self_attn1.in_proj": (1 / 128**0.5, 1 / 128**0.5),
        f"{layer}self_attn2.out_proj": (0.05 / 48**0.5, 0.005),
        f"{layer}nonlin_attention.in_proj": (1 / 128**0.5, 1 / 128**0.5),
        f"{layer}nonlin_attention.out_proj": (0.05 / 96**0.5, 0.005),
        f"{layer}conv_module1.in_proj": (1 / 128**0.5, 1 / 128**0.5),
        f"{layer}conv_module1.out_proj": (0.05 / 128**0.5, 0.005),
        f"{layer}conv_module2.depthwise_conv": (1 / 15**0.5, 1 / 15**0.5),
        f"{layer}feed_forward1.in_proj": (1 / 128**0.5, 1 / 128**0.5),
        f"{layer}feed_forward3.out_proj": (0.1 / 160**0.5, 0.01),
    }
    parameters = dict(encoder.named_parameters())
    for name, both in bounds.items():
        for kind, bound in zip(("weight", "bias"), both, strict=True):
            if bound is not None:
                largest = float(parameters[f"{name}.{kind}"].detach().abs().max())
                number = parameters[f"{name}.{kind}"].numel()
                assert bound * 0.5 ** (12 / number) < largest <= bound * (1 + 1e-6), f"{name}.{kind}"
    for name, parameter in parameters.items():
        if name.endswith("bypass_scale"):
            assert torch.all(parameter == 0.5)
        elif name.endswith("log_scale"):
            assert float(parameter.detach()) == 1.0
        elif name.endswith("norm.bias"):
            assert float(parameter.detach().std()) == pytest.approx(1e-4, rel=0.3)
        elif "downsample" in name:
            assert not parameter.any()
    first, second = (encoder.blocks[index].feed_forward1.in_proj.weight for index in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_heads": [4, 4]}, "num_heads has 2 values where other settings have 6"),
        ({"cnn_module_kernel": 4}, "cnn_module_kernel must be odd"),
        ({"pos_dim": 5}, "pos_dim must be even, found 5"),
        ({"encoder_unmasked_dim": 300}, "encoder_unmasked_dim 300 is more than encoder_dim 192"),
        ({"num_heads": []}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"encoder": {"name": "zipformer", **section}})


def test_stacks_of_unequal_number_are_refused_without_a_config():
    with pytest.raises(ConfigError, match=r"encoder\.num_heads has 2 values where other settings have 6"):
        Zipformer(80, num_heads=[4, 4])


def test_one_number_stands_for_all_stacks():
    sections = {"encoder": {"name": "zipformer", "num_heads": 2, "query_head_dim": [8]}}
    config = Config.model_validate({"features": {"preset": "icefall80"}, **sections}).model_dump(mode="json")
    with torch.device("meta"):
        tagger = build_tagger(config["features"], config["encoder"], tiny_labels())
    widths = {block.self_attn_weights.in_proj.out_features for block in tagger.encoder.blocks}
    assert widths == {2 * (8 + 8 + 4)}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_copies_compute_the_same_and_apart(tagger, expected, copied):
    twin = copied(tagger)
    x, lengths = expected["features"], expected["x_lens"]
    assert torch.equal(twin.from_features(x, lengths), tagger.from_features(x, lengths))
    tagger.encoder.set_batch_count(5000)
    assert twin.encoder.training_state()["batch_count"] == 0.0
    for module in twin.encoder.modules():
        if isinstance(module, Bypass):
            torch.nn.init.zeros_(module.bypass_scale)
    assert not torch.equal(twin.from_features(x, lengths), tagger.from_features(x, lengths))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_serves_other_lengths(tagger, expected):
    """No length of the example may be built into what is exported."""
    x, lengths = expected["features"], expected["x_lens"]
    with torch.no_grad():
        traced = torch.jit.trace(tagger, (torch.zeros(2, 60, 80), torch.tensor([60, 60])))
        assert_near(traced(x, lengths), expected["logits"], 2e-5)
        for frames in (9, 10, 66, 79):
            cut, whole = x[:1, :frames], torch.tensor([frames])
            assert_near(traced(cut, whole), tagger(cut, whole), 2e-5)


def test_the_loss_of_the_toolkit_agrees(tagger, expected):
    bce = BinaryCrossEntropy(torch.ones(10))
    logits = tagger.from_features(expected["features"], expected["x_lens"])
    assert_near(bce(logits, expected["target"]).detach(), expected["loss"] / 30, 1e-5)
