"""The tagger: pooling, head, sizes of the published models, and building from a configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from audiotag.config import AstEncoder, Features
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.tagger import Tagger, build_tagger, masked_mean

TINY = AstEncoder(embed_dim=16, depth=1, num_heads=2, freq_stride=16, time_stride=16)
SIZES = {"base": (768, 12), "small": (384, 6), "tiny": (192, 3)}


def labels(count: int) -> LabelTable:
    return LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(count)])


def tiny_tagger(**features) -> Tagger:
    torch.manual_seed(0)
    section = Features(**{"target_frames": 64, **features})
    return build_tagger(section.model_dump(), TINY.model_dump(), labels(5)).eval()


class FrameEncoder(nn.Module):
    """An encoder with one embedding per two frames, for pooling over lengths."""

    output_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(80, self.output_dim)

    def forward(self, x, lengths):
        return self.linear(x[:, ::2]), (lengths + 1) // 2


@pytest.mark.parametrize(
    "size, stride, target_frames, classes, parameters",
    [
        ("base", 10, 1024, 527, 86_594_063),
        ("base", 12, 1024, 527, 86_316_047),
        ("base", 14, 1024, 527, 86_167_823),
        ("base", 16, 1024, 527, 86_056_463),
        ("base", 10, 512, 50, 85_757_234),
        ("base", 10, 128, 35, 85_395_491),
        ("small", 10, 1024, 527, 22_063_631),
        ("tiny", 10, 1024, 527, 5_723_663),
    ],
)
def test_parameters_of_the_published_models(size, stride, target_frames, classes, parameters):
    width, heads = SIZES[size]
    encoder = AstEncoder(embed_dim=width, num_heads=heads, freq_stride=stride, time_stride=stride)
    features = Features(preset="ast128", target_frames=target_frames)
    with torch.device("meta"):
        tagger = build_tagger(features.model_dump(), encoder.model_dump(), labels(classes))
    assert sum(parameter.numel() for parameter in tagger.parameters()) == parameters


def test_state_holds_encoder_and_head_only():
    names = set(tiny_tagger().state_dict())
    assert {"head_norm.weight", "head_norm.bias", "head.weight", "head.bias"} <= names
    assert "encoder.cls_token" in names
    assert all(name.startswith(("encoder.", "head_norm.", "head.")) for name in names)


def test_waveforms_and_features_give_the_same():
    tagger = tiny_tagger()
    waveforms, lengths = torch.randn(3, 9000), torch.tensor([9000, 5000, 7001])
    features, frames = tagger.frontend(waveforms, lengths)
    with torch.no_grad():
        logits = tagger(waveforms, lengths)
        assert logits.shape == (3, 5)
        assert torch.equal(tagger(features, frames), logits)
        assert torch.equal(tagger.from_features(features, frames), logits)
        by_frame = tagger(waveforms, lengths, frames=True)
    assert by_frame.shape == (3, 2, 5)
    with pytest.raises(DataError, match=r"shape \(9000,\)"):
        tagger(waveforms[0], lengths)


def test_ast_head_sees_the_mean_of_the_summary_tokens():
    tagger = tiny_tagger()
    nn.init.normal_(tagger.head_norm.weight)
    x, lengths = torch.randn(2, 64, 128), torch.tensor([64, 10])
    with torch.no_grad():
        summary, _ = tagger.encoder(x, lengths)
        pooled = functional.layer_norm(
            summary.mean(dim=1), (16,), tagger.head_norm.weight, tagger.head_norm.bias, eps=1e-5
        )
        torch.testing.assert_close(tagger(x, lengths), tagger.head(pooled))
        normed = tagger.head_norm(summary[:, 1])
        torch.testing.assert_close(tagger(x, lengths, frames=True)[:, 1], tagger.head(normed))


def test_padding_is_left_out_of_the_mean():
    tagger = Tagger(Frontend("icefall80"), FrameEncoder(), labels(5), head_norm_eps=None)
    assert not any(name.startswith("head_norm") for name in tagger.state_dict())
    x = torch.randn(2, 20, 80)
    x[1, 9:] = torch.nan  # whatever an encoder leaves behind a clip's end
    with torch.no_grad():
        batch = tagger(x, torch.tensor([20, 9]))
        alone = tagger(x[1:, :9], torch.tensor([9]))
        frames = tagger(x, torch.tensor([20, 9]), frames=True)
    torch.testing.assert_close(batch[1:], alone)
    assert frames.shape == (2, 10, 5)
    # The head is linear, so the mean of frame logits is the logit of the mean.
    torch.testing.assert_close(frames[1, :5].mean(dim=0), batch[1])


def test_masked_mean():
    y = torch.tensor([[[1.0], [2.0], [6.0]], [[1.0], [3.0], [9.0]]])
    assert masked_mean(y, torch.tensor([3, 2])).flatten().tolist() == [3.0, 2.0]


def test_normalization_of_the_configuration():
    def constants(**features):
        frontend = tiny_tagger(**features).frontend
        return frontend.mean, frontend.std

    assert constants() == (-4.2677393, 4.5689974)
    assert constants(normalization="none") == (None, None)
    assert constants(normalization="corpus", mean=-3.0, std=2.0) == (-3.0, 2.0)
    assert constants(mean=-3.0, std=2.0) == (-3.0, 2.0)
    with pytest.raises(ConfigError, match="run stage 4"):
        constants(normalization="corpus")


def test_an_ast_needs_a_fixed_length():
    features = Features(preset="icefall80").model_dump()
    with pytest.raises(ConfigError, match=r"features\.target_frames"):
        build_tagger(features, TINY.model_dump(), labels(5))


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compiled_model_gives_the_same():
    tagger = tiny_tagger()
    x, lengths = torch.randn(2, 64, 128), torch.tensor([64, 64])
    compiled = torch.compile(tagger, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, lengths), tagger(x, lengths))
    waveforms = torch.compile(tagger, backend="aot_eager")
    samples, sizes = torch.randn(2, 8000), torch.tensor([8000, 7000])
    torch.testing.assert_close(waveforms(samples, sizes), tagger(samples, sizes))
