"""The exported folder: model.safetensors, config.json, labels.csv, and thresholds.json where some are known;
written from and read into taggers.

Nothing in it is a pickle. config.json holds the `features` and `encoder` sections, all that is needed to
build the model, the name of the loss, which says how logits become probabilities, and where it comes from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from audiotag.atomic import atomic_write, replace_together
from audiotag.configfile import validate
from audiotag.data.stagefiles import parse_object
from audiotag.errors import CheckpointError, ConfigError, DataError
from audiotag.labels import LabelTable
from audiotag.provenance import file_digest
from audiotag.seal import sealed
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.checkpoint import load_checkpoint, load_weights

FORMAT = "audiotag-model"
VERSION = 1
WEIGHTS_FILE = "model.safetensors"
DIGESTED = (WEIGHTS_FILE, "labels.csv")


@dataclass(frozen=True)
class TrainedModel:
    """A tagger and what it cannot say of itself.

    Args:
        tagger: in eval mode.
        loss: name of the loss that it was trained with; probabilities are the softmax of the logits for `ce`,
            else their sigmoid.
        config: the `features` and `encoder` sections that build it, all settings filled in.
    """

    tagger: Tagger
    loss: str
    config: dict[str, Any]


def export_package(
    folder: Path,
    *,
    weights: dict[str, torch.Tensor],
    config: dict[str, Any],
    labels: LabelTable,
    info: dict[str, Any],
    thresholds: bytes | None = None,
) -> None:
    """Write a model's weights, the configuration that builds it and its labels into a folder.

    Args:
        folder: made if absent; files of those names in it are replaced.
        weights: the tagger's state dict.
        config: the resolved configuration of its training.
        labels: its classes.
        info: what else to keep: checkpoint files, metrics, coverage, provenance.
        thresholds: content of thresholds.json; None where there are none for these weights.
    """
    description = {
        "format": FORMAT,
        "version": VERSION,
        "features": config["features"],
        "encoder": config["encoder"],
        "loss": {"name": loss_name(config)},
        "num_classes": len(labels),
        "info": info,
    }
    with replace_together(folder, sign="config.json", outdated=["thresholds.json"]) as new:
        with atomic_write(new / WEIGHTS_FILE, "wb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in weights.items()}))
        labels.write(new / "labels.csv")
        if thresholds is not None:
            with atomic_write(new / "thresholds.json", "wb") as file:
                file.write(thresholds)
        description["sha256"] = {name: file_digest(new / name) for name in DIGESTED}
        with atomic_write(new / "config.json") as file:
            json.dump(sealed(description), file, indent=2)


def load_tagger(path: str | Path, device: str = "cpu") -> Tagger:
    """The tagger of a training checkpoint (a file) or an exported model (a folder), in eval mode."""
    return load_model(path, device).tagger


def load_model(path: str | Path, device: str = "cpu") -> TrainedModel:
    """The model of a training checkpoint (a file) or an exported folder."""
    path = Path(path)
    if path.is_dir():
        tree = read_description(path)
        check_digests(path, tree)
        labels, weights = read_package_labels(path), read_weights(path / WEIGHTS_FILE)
        sources = (path / "config.json", path / WEIGHTS_FILE)
        return assemble(tree, labels, weights, sources, device)
    state = load_checkpoint(path)
    labels = LabelTable.from_rows(state["labels"])
    return assemble(state["config"], labels, state["model"], (path, path), device)


def assemble(
    tree: dict[str, Any],
    labels: LabelTable,
    weights: dict[str, torch.Tensor],
    sources: tuple[Path, Path],
    device: str | torch.device = "cpu",
) -> TrainedModel:
    """A model from its configuration, or the parts of it that an exported folder has, and its weights.

    Args:
        tree: the configuration.
        labels: the classes.
        weights: a whole state dict.
        sources: where the configuration and the weights come from, for errors.
        device: where the model is to be.
    """
    source, source_of_weights = sources
    sections = read_sections(tree, source)
    try:
        loss = loss_name(tree)
    except (AttributeError, TypeError):
        raise CheckpointError(f"{source}: its section 'loss' is damaged") from None
    tagger = build_tagger(sections["features"], sections["encoder"], labels)
    load_weights(tagger, weights, source_of_weights)
    config = {name: sections[name] for name in ("features", "encoder")}
    return TrainedModel(tagger.to(device).eval(), loss, config)


def loss_name(tree: dict[str, Any]) -> str:
    """The loss that a configuration names; those of old name none and had one only."""
    name = tree.get("loss", {}).get("name", "bce")
    if not isinstance(name, str):
        raise TypeError(f"loss.name is {name!r}")
    return name


def read_description(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder."""
    path = folder / "config.json"
    try:
        description = parse_object(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not an exported model: it has no config.json") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not an audiotag model; import_checkpoint reads other formats")
    if description.get("version") != VERSION:
        raise CheckpointError(f"{path}: version {description.get('version')}, this audiotag reads {VERSION}")
    return description


def check_digests(folder: Path, description: dict[str, Any]) -> None:
    """Compare the files of an exported folder with what config.json says of them, in folders that it does."""
    digests = description.get("sha256", {})
    if not isinstance(digests, dict):
        raise CheckpointError(f"{folder / 'config.json'}: its entry 'sha256' is damaged")
    for name in DIGESTED:
        path = folder / name
        if name in digests and path.is_file() and file_digest(path) != digests[name]:
            raise CheckpointError(
                f"{path} is damaged or not the one that was exported: its SHA-256 is not in config.json; "
                'export again, or delete "sha256" and "checksum" in config.json if the change is meant'
            )


def read_sections(tree: dict[str, Any], source: Path) -> dict[str, Any]:
    """The sections that build a model, checked like a configuration file."""
    sections = {name: tree.get(name) for name in ("features", "encoder")}
    for name, section in sections.items():
        if not isinstance(section, dict) or (name == "encoder" and "name" not in section):
            raise CheckpointError(f"{source}: its section '{name}' is missing or damaged")
    try:
        return validate(sections, {}, str(source)).model_dump(mode="json")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def read_package_labels(folder: Path) -> LabelTable:
    """labels.csv of an exported folder."""
    try:
        return LabelTable.read(folder / "labels.csv")
    except DataError as error:
        raise CheckpointError(f"{folder} is not an exported model: {error}") from None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is not an exported model: it has no {path.name}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
