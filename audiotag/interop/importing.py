"""A model of another format made into a tagger of ours, adapted where other settings ask for it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audiotag.configfile import merge, override_tree, validate
from audiotag.errors import CheckpointError, ConfigError
from audiotag.export.package import TrainedModel
from audiotag.interop.sourcemodel import Hints, SourceModel
from audiotag.interop.transfer import Transfer, find_rows, transfer_weights
from audiotag.labels import Label, LabelTable
from audiotag.tagger import build_tagger

logger = logging.getLogger(__name__)

SECTIONS = ("encoder", "features")


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The sections that `--set encoder.<name>=<value>` and `--set features.<name>=<value>` give."""
    tree: dict[str, Any] = {}
    for override in overrides:
        part = override_tree(override)
        section = next(iter(part))
        if section not in SECTIONS or not isinstance(part[section], dict):
            raise ConfigError(
                f"--set {override}: only settings of {' and '.join(SECTIONS)} can be given here"
            )
        merge(tree, part, f"--set {override}", {})
    return tree


def hints_of(tree: Mapping[str, Any], weights: str = "model") -> Hints:
    """What given sections say of a file that does not say it itself."""
    features = tree.get("features", {})
    return Hints(tree.get("encoder", {}), features.get("target_frames"), weights)


def import_model(
    source: SourceModel, labels: LabelTable | None, given: dict[str, Any]
) -> tuple[TrainedModel, Transfer]:
    """The tagger that a model becomes, in eval mode, and what became of its parts.

    Args:
        source: the model.
        labels: names of its classes; of those that a fresh head is to have, where it has none.
        given: settings of `features` and `encoder` in place of its own.
    """
    table = choose_labels(source, labels)
    tree = source.sections
    merge(tree, given, "--set", sources := {})
    config = validate(tree, sources, str(source.path)).model_dump(mode="json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a fresh head is the same one each time
        tagger = build_tagger(config["features"], config["encoder"], table)
    named = dataclasses.replace(source, labels=table if source.num_classes else None)
    head = "keep" if source.num_classes else "fresh"
    transfer = transfer_weights(tagger, config["encoder"], named, head=head)
    sections = {name: config[name] for name in ("features", "encoder")}
    return TrainedModel(tagger.eval(), source.loss, sections), transfer


def choose_labels(source: SourceModel, given: LabelTable | None) -> LabelTable:
    """The classes of a model: its own with the MIDs of a given table, or the table where it names none."""
    count = source.num_classes
    if count is None:
        if given is None:
            raise ConfigError(
                f"{source.path} has no head: name the classes that a fresh one is to have with --labels"
            )
        return given
    if source.labels is None:
        if given is None:
            logger.warning("no --labels: the %d classes are called class 0, class 1, ...", count)
            return LabelTable([Label(i, f"class_{i}", f"class {i}") for i in range(count)])
        if len(given) != count:
            raise CheckpointError(
                f"{source.path} has {count} classes, the label list {len(given)}: name its own; to train "
                "with others, name the model in init.model"
            )
        return given
    if given is None:
        return source.labels
    rows = find_rows(source.labels, given)
    for label, row in zip(source.labels, rows, strict=True):
        if row is None:
            raise CheckpointError(f"{source.path} has a class {label.name!r}, which the label list lacks")
    return LabelTable([Label(i, given[row].mid, given[row].name) for i, row in enumerate(rows)])
