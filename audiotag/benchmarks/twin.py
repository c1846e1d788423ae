"""An AST as `transformers` has it, with the sizes and the weights of one of ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audiotag.config import AstEncoder
from audiotag.errors import ConfigError
from audiotag.interop.hfnames import to_foreign
from audiotag.tagger import Tagger


class Twin(nn.Module):
    """`transformers`' ASTForAudioClassification, called like a tagger."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B,T,F) to logits (B,C)."""
        return self.model(features).logits


def build_twin(tagger: Tagger, encoder: AstEncoder) -> Twin:
    """The model of `transformers` with a tagger's sizes and weights, and SDPA attention.

    The weights are read from a file, as users of it do, since its names in memory change with its version.
    """
    twin = fresh_twin(tagger, encoder)
    with tempfile.TemporaryDirectory() as folder:
        twin.model.config.save_pretrained(folder)
        weights = to_foreign(tagger.state_dict())
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model = type(twin.model).from_pretrained(
            folder, attn_implementation="sdpa", dtype=torch.float32, local_files_only=True
        )
    return Twin(model)


def fresh_twin(tagger: Tagger, encoder: AstEncoder) -> Twin:
    """The same with random weights."""
    if encoder.name != "ast":
        raise ConfigError(f"transformers has no model like encoder {encoder.name}: only ast is compared")
    try:
        from transformers import ASTConfig, ASTForAudioClassification
        from transformers.utils import logging
    except ImportError:
        raise ConfigError("the comparison needs transformers: pip install 'audiotag[hf]'") from None
    logging.disable_progress_bar()
    config = ASTConfig(
        hidden_size=encoder.embed_dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.num_heads,
        intermediate_size=round(encoder.mlp_ratio * encoder.embed_dim),
        hidden_dropout_prob=encoder.dropout,
        attention_probs_dropout_prob=encoder.attention_dropout,
        layer_norm_eps=encoder.block_norm_eps,
        patch_size=encoder.patch_size,
        frequency_stride=encoder.freq_stride,
        time_stride=encoder.time_stride,
        max_length=tagger.encoder.input_frames,
        num_mel_bins=tagger.encoder.num_mel_bins,
        num_labels=len(tagger.labels),
        attn_implementation="sdpa",
    )
    return Twin(ASTForAudioClassification(config))
