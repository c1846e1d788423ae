"""Encoders by name: log-mel features (B,T,F) and lengths to embeddings (B,S,D) and lengths.

Besides `output_dim` an encoder says of itself whether it is `batch_independent`: whether, in evaluation,
what it makes of a clip depends neither on the other clips of a batch nor on how far the clip is padded, but
for the rounding of float32 (1e-5 of the largest logit or less).

An encoder may also have
    min_frames      frames that it needs; the front end of a tagger pads shorter clips to them;
    groups_samples  whether the front end is to count a clip's frames as BEATs' original does;
    skips_parameters    whether a training pass may leave parameters without a gradient;
    blocks, layer_of, num_layers    for what is done layer by layer: compilation, learning rates;
    set_batch_count(count)          for numbers that follow a schedule in training, told before each update;
    training_state(), load_training_state(state)    for what checkpoints must hold besides its weights;
    adapt_weights(weights, source)  to start from a model of another shape: weights of `source`, an encoder of
                    the same class on the meta device, made to fit this one as far as they can be, and a list
                    with a line on each change; what does not fit even so is refused by whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from audiotag.encoders.ast import Ast
from audiotag.encoders.beats.encoder import Beats
from audiotag.encoders.zipformer.encoder import Zipformer
from audiotag.errors import ConfigError


def encoder_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an encoder of the configuration's `encoder` section, which holds others beside."""
    return {key: value for key, value in section.items() if key not in ("name", "freeze", "head_norm_eps")}


def build_encoder(name: str, *, num_mel_bins: int, target_frames: int | None, **kwargs: Any) -> nn.Module:
    """The encoder of this name for features of `num_mel_bins` bins and `target_frames` frames.

    `target_frames` is None when clips keep their own lengths; `kwargs` are the encoder's own settings.
    """
    if name not in ENCODERS:
        raise ConfigError(f"encoder.name: no encoder {name!r}; there are {', '.join(ENCODERS)}")
    return ENCODERS[name](num_mel_bins=num_mel_bins, target_frames=target_frames, **kwargs)


def build_ast(num_mel_bins: int, target_frames: int | None, **kwargs: Any) -> Ast:
    """An AST, whose input has one fixed length."""
    if target_frames is None:
        raise ConfigError(
            "encoder ast needs inputs of one length: set features.target_frames (frames of 10 ms)"
        )
    return Ast(input_frames=target_frames, num_mel_bins=num_mel_bins, **kwargs)


def build_zipformer(num_mel_bins: int, target_frames: int | None, **kwargs: Any) -> Zipformer:
    """A Zipformer, which takes clips of any length."""
    return Zipformer(num_mel_bins=num_mel_bins, **kwargs)


def build_beats(num_mel_bins: int, target_frames: int | None, **kwargs: Any) -> Beats:
    """A BEATs, which takes clips of any length."""
    return Beats(num_mel_bins=num_mel_bins, **kwargs)


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "ast": build_ast,
    "beats": build_beats,
    "zipformer": build_zipformer,
}
