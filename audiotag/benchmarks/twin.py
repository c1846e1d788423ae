"""An AST as `transformers` has it, with the sizes and the weights of one of ours."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audiotag.config import AstEncoder
from audiotag.errors import ConfigError
from audiotag.tagger import Tagger

# Where names of a tagger's AST lead in the files of `transformers`.
THEIRS = "audio_spectrogram_transformer."
OUTER_NAMES = {
    "encoder.cls_token": f"{THEIRS}embeddings.cls_token",
    "encoder.dist_token": f"{THEIRS}embeddings.distillation_token",
    "encoder.pos_embed": f"{THEIRS}embeddings.position_embeddings",
    "encoder.patch_embed.proj": f"{THEIRS}embeddings.patch_embeddings.projection",
    "encoder.norm": f"{THEIRS}layernorm",
    "head_norm": "classifier.layernorm",
    "head": "classifier.dense",
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.(.+)\.(weight|bias)")


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
        weights = foreign_weights(tagger.state_dict())
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


def foreign_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tagger's weights by the names of `transformers`' files."""
    foreign: dict[str, Tensor] = {}
    for name, value in weights.items():
        block = BLOCK.fullmatch(name)
        stem, _, kind = name.rpartition(".")
        if block and block[2] == "attn.qkv":
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                inner = f"attention.attention.{part}.{kind}"
                foreign[f"{THEIRS}encoder.layer.{block[1]}.{inner}"] = rows.contiguous()
        elif block:
            foreign[f"{THEIRS}encoder.layer.{block[1]}.{BLOCK_NAMES[block[2]]}.{kind}"] = value
        else:
            foreign[OUTER_NAMES[name] if name in OUTER_NAMES else f"{OUTER_NAMES[stem]}.{kind}"] = value
    return foreign
