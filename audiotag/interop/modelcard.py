"""The model card of a folder in Hugging Face's format: README.md with the head that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from audiotag.evaluation.tables import Table
from audiotag.export.package import TrainedModel
from audiotag.interop.epsilons import Difference, Epsilons

MAX_LABELS = 20
METRICS = ("mAP", "mAUC", "d_prime", "f1_micro", "accuracy")
USAGE = """```python
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

folder = "{folder}"
extractor = ASTFeatureExtractor.from_pretrained(folder)
model = ASTForAudioClassification.from_pretrained(folder).eval()
inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")  # mono samples in [-1, 1], 16 kHz
with torch.no_grad():
    probabilities = model(**inputs).logits{probabilities}
```"""


def model_card(
    model: TrainedModel, info: Mapping[str, Any], eps: float, difference: Difference | None
) -> str:
    """The text of README.md.

    Args:
        model: that was exported.
        info: where its weights come from.
        eps: of the LayerNorms as exported.
        difference: what that eps changes; None for nothing.
    """
    title = info.get("title") or "Audio Spectrogram Transformer"
    head = {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": ["audio-classification", "audio-spectrogram-transformer", "audiotag"],
    }
    encoder, frontend = model.config["encoder"], model.tagger.frontend
    parameters = sum(parameter.numel() for parameter in model.tagger.parameters())
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        f"An Audio Spectrogram Transformer of {parameters:,} parameters for {len(model.tagger.labels)} "
        f"classes, exported by audiotag. It hears clips of {frontend.target_frames / 100:g} s: longer ones "
        "are cut, shorter ones padded.",
    ]
    parts += ["## Use", usage(model)]
    parts += ["## Classes", classes(model)]
    parts += ["## Results", results(info)]
    parts += ["## Training", training(model, info)]
    parts += ["## Numbers", numbers(Epsilons.of(encoder), eps, difference)]
    parts += [
        "## Licence",
        "Not stated yet: whoever publishes this model puts `license:` into the head of this file.",
    ]
    return "\n\n".join(parts) + "\n"


def usage(model: TrainedModel) -> str:
    """How to use the folder."""
    probabilities = ".softmax(-1)" if model.loss == "ce" else ".sigmoid()"
    return USAGE.format(folder=".", probabilities=probabilities)


def classes(model: TrainedModel) -> str:
    """The first classes by name."""
    names = model.tagger.labels.names
    more = f", and {len(names) - MAX_LABELS} more" if len(names) > MAX_LABELS else ""
    listed = ", ".join(names[:MAX_LABELS])
    return f"{listed}{more}. `labels.csv` has them all, with their MIDs; `config.json` their names."


def results(info: Mapping[str, Any]) -> str:
    """A table of the main metrics by split, as far as these weights were evaluated."""
    by_split = dict(info.get("evaluations") or {})
    if not by_split and info.get("last_epoch_metrics"):
        by_split = {"validation": info["last_epoch_metrics"]}
    if not by_split:
        return "Not measured here."
    rows = []
    for name in METRICS:
        values = [metrics.get(name) for metrics in by_split.values()]
        if any(value is not None for value in values):
            rows.append([name, *("-" if value is None else f"{value:.4f}" for value in values)])
    return Table(["metric", *by_split], rows).markdown()


def training(model: TrainedModel, info: Mapping[str, Any]) -> str:
    """Which weights these are, and the settings that built the model."""
    lines = [f"- weights: {info.get('weights_in_words') or info.get('weights', 'unknown')}"]
    provenance = info.get("provenance") or {}
    if provenance:
        lines.append("- trained with " + ", ".join(f"{name} {value}" for name, value in provenance.items()))
    for name in ("features", "encoder"):
        settings = {key: value for key, value in model.config[name].items() if value is not None}
        lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    lines.append(f"- loss: {model.loss}")
    return "\n".join(lines)


def numbers(own: Epsilons, eps: float, difference: Difference | None) -> str:
    """How far the outputs of this folder are from those of the model that it was made of."""
    lines = []
    if difference is not None:
        lines.append(
            f"The model was trained with LayerNorm eps of {own} (blocks / final / head). This format knows "
            f"one for all; {eps:g} is written, as in other published models: {difference.in_words()}."
        )
    else:
        lines.append(f"LayerNorm eps are {eps:g}, as in training.")
    lines.append(
        "audiotag subtracts the mean of each clip from its samples. The feature extractor does not "
        "do that; since it removes the mean of every frame, log-mel values change by a few 1e-4 at most."
    )
    return "\n\n".join(lines)
