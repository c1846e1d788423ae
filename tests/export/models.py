"""Small models to export, whose probabilities are neither all alike nor near 0 and 1."""

from __future__ import annotations

import torch
from torch import nn

from audiotag.config import Config
from audiotag.export.package import TrainedModel
from audiotag.labels import Label, LabelTable
from audiotag.tagger import build_tagger
from tests.tiny import TINY

NAMES = ("Speech", "Siren, two-tone", "Baby's cry", "Bell", "Größe", "Water", "Wind")
SMALL_BEATS = {
    "features": {"preset": "beats128"},
    "encoder": {
        "name": "beats",
        "patch_dim": 24,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 4,
        "feedforward_dim": 48,
        "conv_kernel": 16,
        "conv_groups": 4,
        "num_buckets": 32,
        "max_distance": 64,
    },
}
SMALL_ZIPFORMER = {
    "features": {"preset": "icefall80"},
    "encoder": {
        "name": "zipformer",
        "num_encoder_layers": [1, 2, 1],
        "downsampling_factor": [1, 2, 4],
        "encoder_dim": [32, 48, 32],
        "encoder_unmasked_dim": [24, 32, 24],
        "num_heads": [2, 4, 2],
        "query_head_dim": 8,
        "value_head_dim": 6,
        "feedforward_dim": [32, 64, 32],
        "cnn_module_kernel": [15, 15, 7],
        "pos_dim": 16,
    },
}
SMALL = {"ast": TINY, "beats": SMALL_BEATS, "zipformer": SMALL_ZIPFORMER}


def small_model(encoder: str, loss: str = "bce", **features: float | str) -> TrainedModel:
    """A tiny AST, or a small BEATs or Zipformer, with random weights and seven classes.

    Args:
        encoder: its name.
        loss: that it was trained with.
        features: settings of the front end.
    """
    base = SMALL[encoder]
    tree = {**base, "features": {**base["features"], **features}}
    config = Config.model_validate(tree).model_dump(mode="json")
    labels = LabelTable([Label(index, f"/m/0{index}", name) for index, name in enumerate(NAMES)])
    torch.manual_seed(3)
    tagger = build_tagger(config["features"], config["encoder"], labels).eval()
    with torch.no_grad():
        for parameter in tagger.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        nn.init.normal_(tagger.head.weight, std=0.3)
    return TrainedModel(tagger, loss, {name: config[name] for name in ("features", "encoder")})


def sounds(count: int, num_samples: int, seed: int = 0) -> torch.Tensor:
    """Waveforms (B,S) of tones in noise, each of its own pitch."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16000
    pitch = 200 + 2000 * torch.rand(count, 1, generator=generator)
    noise = torch.randn(count, num_samples, generator=generator)
    return 0.3 * (6.2832 * pitch * time).sin() + 0.05 * noise
