"""config.json and preprocessor_config.json of Hugging Face's AST, to and from sections of a configuration."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiotag.errors import CheckpointError
from audiotag.frontend import PRESETS, SAMPLING_RATE
from audiotag.interop.epsilons import Epsilons
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)

MODEL_TYPE = "audio-spectrogram-transformer"
PRESET = "ast128"
EXTRACTOR = "ASTFeatureExtractor"
# The library's defaults, for keys that a file leaves out.
MODEL_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "patch_size": 16,
    "qkv_bias": True,
    "frequency_stride": 10,
    "time_stride": 10,
    "max_length": 1024,
    "num_mel_bins": 128,
}
EXTRACTOR_DEFAULTS: dict[str, Any] = {
    "sampling_rate": SAMPLING_RATE,
    "num_mel_bins": 128,
    "max_length": 1024,
    "padding_value": 0.0,
    "padding_side": "right",
    "do_normalize": True,
    "mean": PRESETS[PRESET].mean,
    "std": PRESETS[PRESET].std,
}
# What our front end does, and theirs may be told to do otherwise.
FIXED_EXTRACTOR = {
    "sampling_rate": SAMPLING_RATE,
    "num_mel_bins": PRESETS[PRESET].num_mel_bins,
    "padding_value": 0.0,
    "padding_side": "right",
}
GENERIC_NAME = re.compile(r"LABEL_\d+")


def encoder_section(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The `encoder` section of a config.json."""
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{path}: model_type is {config.get('model_type')!r}, expected {MODEL_TYPE!r}")
    values = {name: config.get(name, default) for name, default in MODEL_DEFAULTS.items()}
    for name, default in MODEL_DEFAULTS.items():
        number = isinstance(values[name], int | float) and not isinstance(values[name], bool)
        if isinstance(default, int | float) and not isinstance(default, bool) and not number:
            raise CheckpointError(f"{path}: {name} is {values[name]!r}, expected a number")
    if values["hidden_act"] != "gelu":
        raise CheckpointError(
            f"{path}: hidden_act is {values['hidden_act']!r}; only 'gelu', the exact one, is known here"
        )
    if values["num_mel_bins"] != PRESETS[PRESET].num_mel_bins:
        raise CheckpointError(
            f"{path}: num_mel_bins is {values['num_mel_bins']}; features of {PRESET} have "
            f"{PRESETS[PRESET].num_mel_bins}"
        )
    eps = values["layer_norm_eps"]
    return {
        "name": "ast",
        "embed_dim": values["hidden_size"],
        "depth": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "mlp_ratio": values["intermediate_size"] / max(1, values["hidden_size"]),
        "patch_size": values["patch_size"],
        "freq_stride": values["frequency_stride"],
        "time_stride": values["time_stride"],
        "dropout": values["hidden_dropout_prob"],
        "attention_dropout": values["attention_probs_dropout_prob"],
        **Epsilons(eps, eps, eps).settings(),
    }


def features_section(
    config: Mapping[str, Any], extractor: Mapping[str, Any] | None, path: Path
) -> dict[str, Any]:
    """The `features` section of a config.json and a preprocessor_config.json, which may be missing."""
    section: dict[str, Any] = {
        "preset": PRESET,
        "target_frames": config.get("max_length", MODEL_DEFAULTS["max_length"]),
    }
    if extractor is None:
        logger.warning(
            "%s is missing: features are taken to be normalised by AudioSet's mean and deviation", path
        )
        return section
    values = {name: extractor.get(name, default) for name, default in EXTRACTOR_DEFAULTS.items()}
    kind = extractor.get("feature_extractor_type", EXTRACTOR)
    if kind != EXTRACTOR:
        raise CheckpointError(f"{path}: feature_extractor_type is {kind!r}, expected {EXTRACTOR!r}")
    fixed = {**FIXED_EXTRACTOR, "max_length": section["target_frames"]}
    for name, expected in fixed.items():
        if values[name] != expected:
            raise CheckpointError(f"{path}: {name} is {values[name]!r}, expected {expected!r}")
    if not values["do_normalize"]:
        return {**section, "normalization": "none"}
    for name in ("mean", "std"):
        if isinstance(values[name], bool) or not isinstance(values[name], int | float):
            raise CheckpointError(f"{path}: {name} is {values[name]!r}, expected a number")
    if all(values[name] == EXTRACTOR_DEFAULTS[name] for name in ("mean", "std")):
        return section
    return {**section, "mean": values["mean"], "std": values["std"]}


def read_classes(config: Mapping[str, Any], path: Path) -> LabelTable | None:
    """The classes in a config.json, their names standing for MIDs; None where it has none but numbers."""
    by_index = config.get("id2label")
    if by_index is None:
        return None
    try:
        names = {int(index): str(name) for index, name in by_index.items()}
    except (AttributeError, ValueError):
        names = {-1: ""}
    if sorted(names) != list(range(len(names))):
        raise CheckpointError(f"{path}: id2label must name the classes 0, 1, 2, ...")
    ordered = [names[index] for index in range(len(names))]
    if all(GENERIC_NAME.fullmatch(name) for name in ordered):
        return None
    mids = (
        ordered if len(set(ordered)) == len(ordered) else [f"class_{index}" for index in range(len(ordered))]
    )
    return LabelTable([Label(i, mid, name) for i, (mid, name) in enumerate(zip(mids, ordered, strict=True))])


def loss_of(config: Mapping[str, Any]) -> str:
    """The loss that probabilities follow from."""
    return "ce" if config.get("problem_type") == "single_label_classification" else "bce"


def model_config(
    features: Mapping[str, Any], encoder: Mapping[str, Any], labels: LabelTable, loss: str, eps: float
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        features, encoder: sections with all settings filled in.
        labels: the classes.
        loss: that the model was trained with.
        eps: of every LayerNorm.
    """
    return {
        "architectures": ["ASTForAudioClassification"],
        "model_type": MODEL_TYPE,
        "hidden_size": encoder["embed_dim"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["num_heads"],
        "intermediate_size": round(encoder["mlp_ratio"] * encoder["embed_dim"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": encoder["attention_dropout"],
        "initializer_range": 0.02,
        "layer_norm_eps": eps,
        "patch_size": encoder["patch_size"],
        "qkv_bias": True,
        "frequency_stride": encoder["freq_stride"],
        "time_stride": encoder["time_stride"],
        "max_length": features["target_frames"],
        "num_mel_bins": PRESETS[PRESET].num_mel_bins,
        "id2label": {str(label.index): label.name for label in labels},
        "label2id": {label.name: label.index for label in labels},
        "problem_type": "single_label_classification" if loss == "ce" else "multi_label_classification",
    }


def extractor_config(target_frames: int, mean: float | None, std: float | None) -> dict[str, Any]:
    """The content of preprocessor_config.json; without mean and deviation nothing is normalised."""
    scale = {"mean": mean, "std": std} if mean is not None else {}
    return {
        "feature_extractor_type": EXTRACTOR,
        "feature_size": 1,
        **EXTRACTOR_DEFAULTS,
        "max_length": target_frames,
        "do_normalize": mean is not None,
        **scale,
        "return_attention_mask": False,
    }
