"""What all encoders have in common, as `audiotag/encoders/README.md` lists it, checked for each of them."""

from __future__ import annotations

import copy
import inspect
import re
import typing
from pathlib import Path

import pytest
import torch

from audiotag import configencoder
from audiotag.config import Config
from audiotag.configfile import load_config
from audiotag.encoders.registry import ENCODERS, build_encoder, encoder_settings
from audiotag.errors import DataError
from audiotag.interop.formats import FORMATS
from audiotag.tagger import Tagger, build_frontend, build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.flops import training_flops
from tests.export.models import SMALL
from tests.tiny import tiny_labels

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "audiotag/encoders/README.md").read_text()
# The formats that the published models of an encoder are read from.
PUBLISHED = {"ast": {"ast", "hf"}, "beats": {"beats", "espnet"}, "zipformer": {"icefall"}}


@pytest.fixture(params=ENCODERS)
def name(request) -> str:
    return request.param


def sections(name: str) -> dict:
    """The configuration of a small one, resolved."""
    return Config.model_validate(SMALL[name]).model_dump(mode="json")


def small_tagger(name: str) -> Tagger:
    torch.manual_seed(0)
    config = sections(name)
    return build_tagger(config["features"], config["encoder"], tiny_labels())


def batch(tagger: Tagger, frames: tuple[int, ...] = (64, 40)) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two clips, the second padded; whole where the encoder has one length."""
    size = tagger.frontend.target_frames or max(frames)
    x = torch.randn(
        len(frames), size, tagger.frontend.num_mel_bins, generator=torch.Generator().manual_seed(1)
    )
    lengths = torch.tensor(frames).clamp(max=size)
    return x, torch.full_like(lengths, size) if tagger.frontend.target_frames else lengths


def test_it_has_a_section_whose_keys_are_its_own(name):
    """Every key with a documentation, and every key an argument."""
    kinds = typing.get_args(typing.get_args(configencoder.Encoder)[0])
    [kind] = [kind for kind in kinds if kind.model_fields["name"].default == name]
    assert all(field.description for field in kind.model_fields.values())
    encoder = small_tagger(name).encoder
    keys = set(encoder_settings(kind.model_fields))
    arguments = inspect.signature(type(encoder).__init__).parameters
    assert keys <= set(arguments)
    assert inspect.getdoc(type(encoder)) and all(
        re.search(rf"\b{key}\b", type(encoder).__doc__) for key in keys
    )
    with pytest.raises(TypeError):
        build_encoder(name, num_mel_bins=128, target_frames=64, no_such_setting=1)


def test_its_published_sizes_are_in_conf(name):
    paths = list((ROOT / "conf" / "encoders").glob(f"{name}_*.yaml"))
    assert len(paths) >= 2 and any("tiny" in path.name for path in paths)
    for path in paths:
        config = load_config(path)
        assert config.encoder.name == name
        sizes = encoder_settings(config.encoder.model_dump())
        frontend = build_frontend(config.features.model_dump())
        with torch.device("meta"):
            build_encoder(
                name, num_mel_bins=frontend.num_mel_bins, target_frames=frontend.target_frames, **sizes
            )
    assert list((ROOT / "egs" / "mini" / "conf").glob(f"{name}_tiny.yaml"))


def test_features_and_lengths_become_embeddings_and_lengths(name):
    tagger = small_tagger(name).eval()
    x, lengths = batch(tagger)
    y, counts = tagger.encoder(x, lengths)
    assert y.shape == (2, y.shape[1], tagger.encoder.output_dim)
    assert counts.shape == (2,) and counts.dtype == torch.int64 and int(counts.max()) == y.shape[1]
    assert bool((counts >= 1).all()) and y.isfinite().all()
    assert tagger.from_features(x, lengths).shape == (2, 3)
    assert tagger.from_features(x, lengths, frames=True).shape == (2, y.shape[1], 3)
    with pytest.raises(DataError, match="mel bins"):
        tagger.encoder(x[:, :, 1:], lengths)


def test_evaluation_repeats_itself_and_copies_agree(name):
    tagger = small_tagger(name).eval()
    x, lengths = batch(tagger)
    expected = tagger(x, lengths)
    assert torch.equal(tagger(x, lengths), expected)
    twin = copy.deepcopy(tagger)
    assert torch.equal(twin(x, lengths), expected)
    other = build_tagger(*(sections(name)[part] for part in ("features", "encoder")), tiny_labels()).eval()
    assert not torch.equal(other(x, lengths), expected)
    other.load_state_dict(tagger.state_dict())
    assert torch.equal(other(x, lengths), expected)


def test_what_it_says_of_batches_is_true(name):
    """A clip alone, and padded farther than in the batch."""
    tagger = small_tagger(name).eval()
    waveforms = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([16000, 9000])
    waveforms[1, 9000:] = 0.0
    with torch.no_grad():
        both = tagger(waveforms, lengths)
        alone = tagger(waveforms[1:, :9000], lengths[1:])
        wide = tagger(torch.nn.functional.pad(waveforms, (0, 20000)), lengths)
    error = max(float((other[-1] - both[1]).abs().max()) for other in (alone, wide))
    scale = float(both.abs().max())
    assert (error <= 1e-5 * scale) == tagger.encoder.batch_independent


def test_a_clip_that_is_too_short_is_padded(name):
    tagger = small_tagger(name).eval()
    waveforms, lengths = 0.1 * torch.ones(2, 16000), torch.tensor([600, 16000])
    assert tagger(waveforms, lengths).isfinite().all()
    assert tagger(waveforms[:1, :600], lengths[:1]).isfinite().all()


def test_layers_are_counted_from_the_input(name):
    encoder = small_tagger(name).encoder
    layers = {inner: encoder.layer_of(inner) for inner, _ in encoder.named_parameters()}
    assert set(layers.values()) == set(range(encoder.num_layers))
    assert encoder.num_layers == 1 + len(encoder.blocks)
    by_identity = {id(parameter): inner for inner, parameter in encoder.named_parameters()}
    for index, block in enumerate(encoder.blocks):
        assert {layers[by_identity[id(parameter)]] for parameter in block.parameters()} == {index + 1}


def gradients(tagger: Tagger) -> dict[str, torch.Tensor]:
    x, lengths = batch(tagger)
    torch.manual_seed(5)
    tagger.train()(x, lengths).square().sum().backward()
    return {name: parameter.grad for name, parameter in tagger.named_parameters()}


def test_every_parameter_is_trained_and_blocks_may_be_recomputed(name):
    """Training draws from torch's generators alone, so the same seed gives the same gradients."""
    expected = gradients(small_tagger(name))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in expected.values())
    tagger = small_tagger(name)
    accelerate(tagger, activation_checkpointing=True)
    for inner, gradient in gradients(tagger).items():
        torch.testing.assert_close(gradient, expected[inner], rtol=1e-4, atol=1e-6, msg=inner)


def test_mixed_precision_gives_float32_logits(name):
    tagger = small_tagger(name).eval()
    x, lengths = batch(tagger)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = tagger(x, lengths)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, tagger(x, lengths), atol=0.05, rtol=0.05)


def test_its_operations_are_counted(name):
    tagger = small_tagger(name)
    x, _ = batch(tagger)
    assert training_flops(tagger, tuple(x[:1].shape)) > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_serves_other_batches(name):
    tagger = small_tagger(name).eval()
    with torch.no_grad():
        traced = torch.jit.trace(tagger, batch(tagger, (60, 50)))
        for frames in ((64, 40, 64), (48,)):
            x, lengths = batch(tagger, frames)
            torch.testing.assert_close(traced(x, lengths), tagger(x, lengths), atol=2e-5, rtol=0)


def test_published_models_are_read(name):
    assert PUBLISHED[name] <= set(FORMATS)


def test_it_has_vectors_of_its_own(name):
    assert list((ROOT / "tests" / "data" / name).glob("*.safetensors"))
    assert list((ROOT / "tests/encoders").rglob(f"test_{name}*.py"))


def test_the_checklist_names_what_there_is():
    """Every path of the checklist, for a name that is there."""
    paths = re.findall(r"`((?:audiotag|conf|egs|tests|docs)/[\w/.<>*-]+)`", README)
    assert len(paths) > 8
    for path in paths:
        found = [match for name in ENCODERS for match in ROOT.glob(path.replace("<name>", name).rstrip("/"))]
        assert found, path
