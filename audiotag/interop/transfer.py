"""Weights of one model given to another: the encoder's adapted, the head's rows matched by their classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from audiotag.errors import ConfigError
from audiotag.interop.sourcemodel import SourceModel
from audiotag.labels import LabelTable
from audiotag.tagger import Tagger

logger = logging.getLogger(__name__)

MAX_NAMED = 3
# Settings beside eps that change what the same weights compute, which shapes do not always show: BEATs'.
TELLING = ("deep_norm", "max_distance", "gated_bias")
# A setting of training, which says nothing of weights.
OF_TRAINING = "freeze"


@dataclass
class Transfer:
    """What became of the parts of a model, each in words."""

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = {"taken": self.taken, "adapted": self.adapted, "fresh": self.fresh, "left": self.left}
        return "; ".join(f"{name}: {', '.join(words) or 'nothing'}" for name, words in parts.items())


def transfer_weights(
    tagger: Tagger,
    encoder: Mapping[str, Any],
    source: SourceModel,
    head: Literal["auto", "keep", "fresh"] = "auto",
    layers: Sequence[int] | None = None,
) -> Transfer:
    """Copy what a model has into a tagger, which stays as it is where something does not fit.

    Args:
        tagger: with fresh weights, which stay where nothing takes their place.
        encoder: the settings of its encoder.
        source: the model.
        head: `keep` takes the head, which must know all classes of the tagger; `fresh` leaves it; `auto`
            takes it where the classes are the same ones.
        layers: blocks of the model that become the tagger's, in their order; None takes them all.
    """
    differing = compare_settings(encoder, source)
    transfer = Transfer()
    theirs = {
        name.removeprefix("encoder."): value
        for name, value in source.weights.items()
        if name.startswith("encoder.")
    }
    start = block_prefix(tagger.encoder) if "depth" in encoder else None
    if start is not None:
        body = choose_blocks(theirs, tagger, source, start, layers, transfer)
    elif layers is None:
        body = theirs
    else:
        raise ConfigError(
            "init.layers needs an encoder made of blocks that are all alike, which "
            f"{type(tagger.encoder).__name__} is not"
        )
    if hasattr(tagger.encoder, "adapt_weights"):
        body, transfer.adapted = tagger.encoder.adapt_weights(body, source.layout)
    check_shapes(tagger.encoder.state_dict(), body, differing, source)
    transfer.taken.append(f"encoder ({len(body)} tensors)")
    new = {f"encoder.{name}": value for name, value in body.items()}
    new |= choose_head(tagger, source, head, transfer)
    tagger.load_state_dict({**tagger.state_dict(), **new})
    return transfer


def compare_settings(encoder: Mapping[str, Any], source: SourceModel) -> list[str]:
    """Refuse or warn of settings that shapes do not show; the others that differ, in words."""
    if encoder["name"] != source.encoder["name"]:
        raise ConfigError(
            f"encoder.name is {encoder['name']}, the model in {source.path} has the encoder "
            f"{source.encoder['name']}"
        )
    differing = {
        name: f"encoder.{name} is {value}, there {source.encoder[name]}"
        for name, value in encoder.items()
        if name in source.encoder and name != OF_TRAINING and not is_same(value, source.encoder[name])
    }
    telling = {name: differing[name] for name in differing if name.endswith("_eps") or name in TELLING}
    if telling:
        logger.warning(
            "settings other than those of %s change what its weights compute: %s; to have its own, set %s",
            source.path,
            ", ".join(telling.values()),
            ", ".join(f"encoder.{name}={str(source.encoder[name]).lower()}" for name in telling),
        )
    if "depth" in differing and encoder.get("deep_norm") and source.encoder.get("deep_norm"):
        logger.warning(
            "DeepNorm scales residuals by the number of layers, which is not that of %s: %s",
            source.path,
            differing["depth"],
        )
    heads = [name for name in differing if "head" in name and name not in telling]
    if heads:
        raise ConfigError(
            f"the weights of {source.path} are of other attention heads: "
            + ", ".join(differing[name] for name in heads)
        )
    if others := [words for name, words in differing.items() if name not in telling]:
        logger.info("other settings than those of %s: %s", source.path, ", ".join(others))
    return list(differing.values())


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two settings are one; a list of one number alone stands for that number."""
    plain = [
        value[0] if isinstance(value, list) and len(set(value)) == 1 else value for value in (ours, theirs)
    ]
    return plain[0] == plain[1]


def block_prefix(encoder: nn.Module) -> str:
    """What the names of an encoder's blocks begin with, before their numbers."""
    names = {id(module): name for name, module in encoder.named_modules()}
    (prefix,) = {names[id(block)].removesuffix(str(index)) for index, block in enumerate(encoder.blocks)}
    return prefix


def choose_blocks(
    theirs: Mapping[str, Tensor],
    tagger: Tagger,
    source: SourceModel,
    prefix: str,
    layers: Sequence[int] | None,
    transfer: Transfer,
) -> dict[str, Tensor]:
    """The encoder's weights with the chosen blocks, renumbered; all as they are without a choice."""
    depth, wanted = len({number_of(name, prefix) for name in theirs} - {None}), len(tagger.encoder.blocks)
    if layers is None:
        if depth != wanted:
            raise ConfigError(
                f"encoder.depth is {wanted}, the model in {source.path} has {depth} blocks: init.layers can "
                "choose among them"
            )
        return dict(theirs)
    if len(layers) != wanted:
        raise ConfigError(f"init.layers names {len(layers)} blocks, but encoder.depth is {wanted}")
    if max(layers) >= depth:
        raise ConfigError(
            f"init.layers names block {max(layers)}, but the model in {source.path} has {depth}, from 0 on"
        )
    body = {name: value for name, value in theirs.items() if number_of(name, prefix) is None}
    for new, old in enumerate(layers):
        start = f"{prefix}{old}."
        for name, value in theirs.items():
            if name.startswith(start):
                body[f"{prefix}{new}.{name.removeprefix(start)}"] = value
    transfer.taken.append(f"blocks {', '.join(map(str, layers))}")
    left = sorted(set(range(depth)) - set(layers))
    if left:
        transfer.left.append(f"blocks {', '.join(map(str, left))}")
    return body


def number_of(name: str, prefix: str) -> int | None:
    """The block that a tensor belongs to; None where it is in none."""
    return int(name.removeprefix(prefix).partition(".")[0]) if name.startswith(prefix) else None


def check_shapes(
    own: Mapping[str, Tensor], body: Mapping[str, Tensor], differing: list[str], source: SourceModel
) -> None:
    """Refuse weights that do not fit, with the settings that differ."""
    problem = next(
        (
            f"tensor encoder.{name} has shape {tuple(value.shape)} here and "
            + (f"{tuple(body[name].shape)} there" if name in body else "is missing there")
            for name, value in own.items()
            if name not in body or body[name].shape != value.shape
        ),
        None,
    ) or next((f"the model has a tensor encoder.{name} more" for name in body if name not in own), None)
    if problem is not None:
        why = ", ".join(differing) or problem
        raise ConfigError(f"the model in {source.path} does not fit the configuration: {why}")


def choose_head(
    tagger: Tagger, source: SourceModel, head: Literal["auto", "keep", "fresh"], transfer: Transfer
) -> dict[str, Tensor]:
    """The head's tensors in the order of the tagger's classes; none where it is to be fresh."""
    theirs = {name: value for name, value in source.weights.items() if name.startswith("head")}
    rows = find_rows(tagger.labels, source.labels) if source.labels is not None else None
    why = ""
    if not theirs:
        why = "the model has none"
    elif head == "fresh":
        why = "as asked for"
    elif rows is None:
        why = "the model does not name its classes"
    elif None in rows:
        unknown = [label.name for label, row in zip(tagger.labels, rows, strict=True) if row is None]
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        why = f"the model does not know {', '.join(unknown[:MAX_NAMED])}{more}"
    elif len(set(rows)) < len(rows):
        why = "two classes here are one there"
    elif head == "auto" and len(rows) != source.num_classes:
        why = f"{len(rows)} classes here, {source.num_classes} there"
    if why and head == "keep":
        advice = "take another model, or init.head auto or fresh"
        if rows is None and theirs:
            advice = "import it with import_checkpoint and --labels first, and start from the folder"
        raise ConfigError(f"the head of {source.path} cannot be kept: {why}; {advice}")
    if why:
        transfer.fresh.append(f"head with its LayerNorm ({why})" if len(theirs) > 2 else f"head ({why})")
        if theirs:
            transfer.left.append(f"head of {source.num_classes} classes")
        return {}
    transfer.taken.append(f"head ({len(rows)} classes)")
    if len(rows) != source.num_classes:
        transfer.left.append(f"{source.num_classes - len(set(rows))} other classes of the head")
    elif rows != sorted(rows):
        transfer.adapted.append("order of the classes")
    for name in ("head.weight", "head.bias"):
        theirs[name] = theirs[name][rows]
    return theirs


def find_rows(ours: LabelTable, theirs: LabelTable) -> list[int | None]:
    """For each of our classes its index in another table, by MID, else by name; None where it has none."""
    by_name: dict[str, int | None] = {}
    for label in theirs:
        name = label.name.strip().casefold()
        by_name[name] = None if name in by_name else label.index  # a name of two classes tells nothing
    return [theirs.index_of_mid.get(label.mid, by_name.get(label.name.strip().casefold())) for label in ours]
