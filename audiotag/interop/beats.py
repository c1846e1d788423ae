"""BEATs' own files: `cfg` and `model`, and for fine-tuned ones `label_dict`, read and written.

Pre-trained files have no head. The classes of the others come in an order of their own, which `label_dict`
says: from the index of an output to the MID.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel
from audiotag.interop.beatsfields import read_fields, write_fields
from audiotag.interop.beatsnames import WHAT, foreign_weights, own_name, with_one_table
from audiotag.interop.foreignweights import as_weights, check_fit, find, read_torch_file
from audiotag.interop.sourcemodel import Hints, SourceModel, complete, make_layout
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)

FILE = "beats.pt"
PRESET = "beats128"


def is_beats(path: Path, content: Any) -> bool:
    """Whether the content of a file is that of an original BEATs."""
    state = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and "cfg" in content and "patch_embedding.weight" in state


def read_beats(path: Path, hints: Hints) -> SourceModel:
    """The model of BEATs_iter<n>.pt, pre-trained or fine-tuned."""
    content = read_torch_file(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("cfg"), Mapping):
        raise CheckpointError(f"{path}: not a file of BEATs, which has its settings under 'cfg'")
    if "model" not in content:
        raise CheckpointError(f"{path}: not a file of BEATs, which has its weights under 'model'")
    cfg = content["cfg"]
    weights = with_one_table(as_weights(content["model"], path), path)
    has_head = "predictor.bias" in weights
    if cfg.get("finetuned_model", has_head) and not has_head:
        raise CheckpointError(f"{path}: its cfg says finetuned_model, but tensor predictor.bias is missing")
    labels = None
    if has_head:
        count = len(weights["predictor.bias"])
        if cfg.get("predictor_class", count) != count:
            raise CheckpointError(
                f"{path}: its cfg says predictor_class {cfg['predictor_class']}, its head has {count} classes"
            )
        if "label_dict" in content:
            labels = read_label_dict(content["label_dict"], count, path)
        else:
            logger.warning("%s has no label_dict: nothing is known of the order of its classes", path)
    else:
        logger.info("%s is a pre-trained model without a head", path)
    return make_source(path, weights, read_fields(cfg, weights, hints.encoder, path), labels)


def make_source(
    path: Path,
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    labels: LabelTable | None,
    features: Mapping[str, Any] | None = None,
    loss: str = "bce",
    files: tuple[Path, ...] | None = None,
) -> SourceModel:
    """The model of an encoder's settings, with weights by the original's names held against them.

    Args:
        path: where it comes from.
        weights: with one table.
        settings: of the encoder.
        labels: of its head, if it has one and they are known.
        features: settings of the front end beside its preset.
        loss: what it was trained with.
        files: that it was read from; None for `path` alone.
    """
    section, encoder = complete(
        {"features": {"preset": PRESET, **(features or {})}, "encoder": {"name": "beats", **settings}}, path
    )
    layout = make_layout(section, encoder)
    expected = dict(layout.state_dict())
    if "predictor.bias" in weights:
        count = len(weights["predictor.bias"])
        expected["predictor.weight"] = torch.empty(count, layout.output_dim, device="meta")
        expected["predictor.bias"] = torch.empty(count, device="meta")
    check_fit(expected, weights, path, WHAT)
    own = {own_name(name): find(weights, name, path, WHAT) for name in expected}
    return SourceModel(path, files or (path,), own, encoder, section, layout, labels, loss)


def read_label_dict(content: Any, count: int, path: Path) -> LabelTable:
    """The classes of a head by their MIDs, which also stand for their names."""
    if not isinstance(content, Mapping) or set(content) != set(range(count)):
        raise CheckpointError(f"{path}: its label_dict does not name the {count} classes of its head")
    mids = [content[index] for index in range(count)]
    if not all(isinstance(mid, str) and mid.strip() for mid in mids) or len(set(mids)) != count:
        raise CheckpointError(f"{path}: the MIDs of its label_dict are not {count} different names")
    return LabelTable([Label(index, mid, mid) for index, mid in enumerate(mids)])


def export_beats(folder: Path, model: TrainedModel) -> Path:
    """Write beats.pt and labels.csv into a folder, for the original code; the path of the first."""
    check_exportable("beats", model)
    content = io.BytesIO()
    labels = model.tagger.labels
    torch.save(
        {
            "cfg": write_fields(model.config["encoder"], len(labels)),
            "model": foreign_weights(model.tagger),
            "label_dict": {label.index: label.mid for label in labels},
        },
        content,
    )
    if model.loss == "ce":
        logger.warning("the original takes the sigmoid of logits: this model was trained for their softmax")
    with atomic_write(folder / FILE, "wb") as file:
        file.write(content.getvalue())
    labels.write(folder / "labels.csv")
    return folder / FILE


def check_exportable(format: str, model: TrainedModel) -> None:
    """Refuse models that others could not run, and warn of those that they would feed other features."""
    encoder, frontend = model.config["encoder"], model.tagger.frontend
    if encoder["name"] != "beats":
        raise ConfigError(f"--to {format} writes a BEATs, not the encoder {encoder['name']}")
    preset = frontend.preset
    if model.config["features"]["preset"] != PRESET:
        raise ConfigError(
            f"--to {format}: others compute features of preset {PRESET}, this model's are of "
            f"{model.config['features']['preset']}"
        )
    if frontend.mean is None:
        raise ConfigError(
            f"--to {format}: others always normalise the features, which this model does not take normalised"
        )
    if (frontend.mean, frontend.std) != (preset.mean, preset.std) and format == "beats":
        logger.warning(
            "the original normalises features by mean %g and deviation %g unless its callers say otherwise, "
            "this model by %s and %s: they must give these",
            preset.mean,
            preset.std,
            frontend.mean,
            frontend.std,
        )
