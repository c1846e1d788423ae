"""Write an AST as Hugging Face's format has it: a folder that transformers loads as it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save

from audiotag.atomic import atomic_write, replace_together
from audiotag.errors import ConfigError
from audiotag.export.package import WEIGHTS_FILE, TrainedModel
from audiotag.interop.epsilons import Difference, Epsilons, measure_other_epsilons
from audiotag.interop.hfconfig import PRESET, extractor_config, model_config
from audiotag.interop.hfnames import to_foreign
from audiotag.interop.huggingface import CONFIG_FILE, EXTRACTOR_FILE, LABELS_FILE
from audiotag.interop.modelcard import model_card

logger = logging.getLogger(__name__)

# What the published conversions have; their format knows one eps for all LayerNorms.
COMMON_EPS = 1e-12


def export_huggingface(folder: Path, model: TrainedModel, info: dict[str, Any]) -> None:
    """Write config.json, preprocessor_config.json, model.safetensors, labels.csv and README.md into a folder.

    Args:
        folder: made if absent; files of those names in it are replaced.
        model: with an AST.
        info: where its weights come from, for the model card.
    """
    features, encoder = model.config["features"], model.config["encoder"]
    check_exportable(model)
    eps, difference = choose_eps(model)
    tagger = model.tagger
    config = model_config(
        {**features, "target_frames": tagger.frontend.target_frames}, encoder, tagger.labels, model.loss, eps
    )
    extractor = extractor_config(tagger.frontend.target_frames, tagger.frontend.mean, tagger.frontend.std)
    weights = to_foreign({name: value.cpu() for name, value in tagger.state_dict().items()})
    with replace_together(folder, sign=CONFIG_FILE) as new:
        with atomic_write(new / WEIGHTS_FILE, "wb") as file:
            file.write(save(weights, metadata={"format": "pt"}))
        for name, content in ((CONFIG_FILE, config), (EXTRACTOR_FILE, extractor)):
            with atomic_write(new / name) as file:
                json.dump(content, file, indent=2, ensure_ascii=False)
                file.write("\n")
        tagger.labels.write(new / LABELS_FILE)
        with atomic_write(new / "README.md") as file:
            file.write(model_card(model, info, eps, difference))


def check_exportable(model: TrainedModel) -> None:
    """Refuse what their format or their feature extractor cannot express."""
    features, encoder = model.config["features"], model.config["encoder"]
    if encoder["name"] != "ast":
        raise ConfigError(f"--to hf writes an AST, not the encoder {encoder['name']}")
    if features["preset"] != PRESET:
        raise ConfigError(
            f"--to hf: the feature extractor of that format computes features of preset {PRESET}, this "
            f"model's are of {features['preset']}"
        )
    names = model.tagger.labels.names
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ConfigError(f"--to hf: classes are told apart by their names there, and two are called {twice}")


def choose_eps(model: TrainedModel) -> tuple[float, Difference | None]:
    """The one eps for all LayerNorms, and what it changes where the model has several."""
    epsilons = Epsilons.of(model.config["encoder"])
    if epsilons.block == epsilons.final == epsilons.head:
        return epsilons.block, None
    difference = measure_other_epsilons(model, Epsilons(COMMON_EPS, COMMON_EPS, COMMON_EPS))
    logger.warning(
        "the format knows one LayerNorm eps, this model has three (%s): %g is written, as in the published "
        "conversions; %s",
        epsilons,
        COMMON_EPS,
        difference.in_words(),
    )
    return COMMON_EPS, difference
