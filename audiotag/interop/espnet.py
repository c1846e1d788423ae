"""ESPnet's classification checkpoints with a BEATs encoder: read and written.

A state dict (120epoch.pth), with config.yaml beside it. That holds the list of classes, in ESPnet's own order
and with special tokens behind them, and those fields of the encoder that its recipe changed; the others are
in the pre-trained file that it names, or must be given.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from audiotag.atomic import atomic_write, replace_together
from audiotag.errors import CheckpointError
from audiotag.export.package import TrainedModel
from audiotag.frontend import PRESETS
from audiotag.interop.beats import PRESET, check_exportable, make_source
from audiotag.interop.beatsfields import read_fields, write_fields
from audiotag.interop.beatsnames import foreign_weights, with_one_table
from audiotag.interop.foreignweights import as_weights, read_torch_file
from audiotag.interop.sourcemodel import Hints, SourceModel
from audiotag.labels import Label, LabelTable

logger = logging.getLogger(__name__)

FILE, CONFIG_FILE, TOKENS_FILE = "model.pth", "config.yaml", "token_list"
HEAD = "decoder.linear_out."
# What versions in development count padding with; nothing is learnt in them.
UNUSED = ("encoder.patch_embedding_pad.", "encoder.raw2fbank_pad.")
# Parts of the encoder that ESPnet adds, and the values with which they are off.
OFF: dict[str, tuple[Any, ...]] = {
    "max_layer": (None,),
    "downsampling_rate": (None, 1),
    "adapter_config": (None, ""),
    "use_weighted_representation": (None, False),
    "add_positional_information": (None, False),
}
LOSSES = {"multi-label": "bce", "multi-class": "ce"}


def is_espnet(path: Path, content: Any) -> bool:
    """Whether the content of a file is that of a classifier of ESPnet with a BEATs."""
    names = ("encoder.patch_embedding.weight", f"{HEAD}bias")
    return isinstance(content, Mapping) and all(name in content for name in names)


def read_espnet(path: Path, hints: Hints) -> SourceModel:
    """The model of a .pth file, or of a folder with one, and the config.yaml beside it."""
    file = find_file(path)
    config = read_config(file.with_name(CONFIG_FILE))
    settings = section(config, "encoder_conf", file)
    check_parts(config, settings, file)
    loaded = as_weights(read_torch_file(file), file)
    used = {name: value for name, value in loaded.items() if not name.startswith(UNUSED)}
    weights = with_one_table({original_name(name, file): value for name, value in used.items()}, file)
    cfg = {**pretrained_fields(settings, file), **section(settings, "beats_config", file)}
    # ESPnet's own head has another dropout, and none in its recipe.
    fields = read_fields({**cfg, "predictor_dropout": 0.0}, weights, hints.encoder, file)
    kind = section(config, "model_conf", file).get("classification_type", "multi-label")
    if not isinstance(kind, str) or kind not in LOSSES:
        raise CheckpointError(
            f"{file}: its classification_type is {kind!r}; {' and '.join(LOSSES)} are known here"
        )
    labels = read_tokens(config, weights, file)
    return make_source(path, weights, fields, labels, read_features(settings), LOSSES[kind], (file,))


def read_features(settings: Mapping[str, Any]) -> dict[str, float]:
    """The constants by which features are normalised, where they are others than BEATs' own."""
    preset = PRESETS[PRESET]
    mean, std = settings.get("fbank_mean", preset.mean), settings.get("fbank_std", preset.std)
    return {} if (mean, std) == (preset.mean, preset.std) else {"mean": mean, "std": std}


def original_name(name: str, path: Path) -> str:
    """What BEATs' own files call a tensor of ESPnet's."""
    if name.startswith(HEAD):
        return name.replace(HEAD, "predictor.")
    if name.startswith("encoder."):
        return name.removeprefix("encoder.")
    raise CheckpointError(f"{path}: does not fit a BEATs of ESPnet: it has an unknown tensor {name}")


def find_file(path: Path) -> Path:
    """The file itself, or the only one of a folder."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.pth"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{path}: one .pth file is expected in it, found {found}: name the file")
    return files[0]


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml; nothing where it is not there."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        logger.warning("%s is not there: nothing is known of the classes and of the encoder's settings", path)
        return {}
    # PyYAML reads nested text by recursion, and has Python read dates and numbers.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a configuration of ESPnet")
    return content


def section(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A section of a configuration, which may be absent or empty."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.with_name(CONFIG_FILE)}: its {name} is not a section of settings")
    return found


def check_parts(config: Mapping[str, Any], encoder: Mapping[str, Any], path: Path) -> None:
    """Refuse what would change the model and is not known here, by the names of its settings."""
    decoder = section(config, "decoder_conf", path)
    found = {
        "encoder": (config.get("encoder", "beats"), ("beats",)),
        "decoder": (config.get("decoder", "linear"), ("linear",)),
        "decoder_conf.pooling": (decoder.get("pooling", "mean"), ("mean",)),
        **{f"encoder_conf.{name}": (encoder.get(name), off) for name, off in OFF.items()},
    }
    for name, (value, known) in found.items():
        if value not in known:
            raise CheckpointError(
                f"{path.with_name(CONFIG_FILE)}: {name} is {value!r}; only {known[-1]!r} is known here"
            )


def pretrained_fields(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The cfg of the pre-trained file that a configuration names, where that is at hand."""
    name = settings.get("beats_ckpt_path")
    pretrained = path.parent / str(name)
    if not name or not pretrained.is_file():
        return {}
    content = read_torch_file(pretrained)
    if not isinstance(content, Mapping) or not isinstance(content.get("cfg"), Mapping):
        raise CheckpointError(f"{pretrained}: not a file of BEATs, which has its settings under 'cfg'")
    return dict(content["cfg"])


def read_tokens(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> LabelTable | None:
    """The classes of the head; their tokens stand for MIDs, and with blanks in them for names."""
    tokens = config.get("token_list")
    if isinstance(tokens, str):
        listed = path.parent / tokens
        tokens = read_lines(listed) if listed.is_file() else None
    if tokens is None:
        logger.warning("%s: there is no list of its classes: give one in its own order with --labels", path)
        return None
    if not isinstance(tokens, list):
        raise CheckpointError(f"{path.with_name(CONFIG_FILE)}: its token_list is neither a list nor a file")
    count = len(weights["predictor.bias"])
    names = [str(token).strip() for token in tokens]
    names = [name for name in names if name and not (name.startswith("<") and name.endswith(">"))]
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(
            f"{path.with_name(CONFIG_FILE)}: its token_list has {len(set(names))} classes, the head {count}"
        )
    return LabelTable([Label(i, name, name.replace("_", " ")) for i, name in enumerate(names)])


def read_lines(path: Path) -> list[str]:
    """The lines of a file of classes."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: not UTF-8") from None


def export_espnet(folder: Path, model: TrainedModel) -> Path:
    """Write model.pth, config.yaml and token_list into a folder, for ESPnet; the path of the first."""
    check_exportable("espnet", model)
    weights = {}
    for name, value in foreign_weights(model.tagger).items():
        is_head = name.startswith("predictor.")
        weights[name.replace("predictor.", HEAD) if is_head else f"encoder.{name}"] = value
    tokens = [*(label.name.replace(" ", "_") for label in model.tagger.labels), "<unk>"]
    if len(set(tokens)) != len(tokens):
        raise CheckpointError("two classes have one name, by which ESPnet knows them: rename one of them")
    frontend = model.tagger.frontend
    fields = write_fields(model.config["encoder"], len(tokens) - 1)
    for name in ("finetuned_model", "predictor_class", "predictor_dropout"):
        del fields[name]
    kind = next(kind for kind, loss in LOSSES.items() if (loss == "ce") == (model.loss == "ce"))
    config = {
        "token_list": tokens,
        "input_size": 1,
        "encoder": "beats",
        "encoder_conf": {"fbank_mean": frontend.mean, "fbank_std": frontend.std, "beats_config": fields},
        "decoder": "linear",
        "decoder_conf": {"pooling": "mean"},
        "model_conf": {"classification_type": kind},
    }
    content = io.BytesIO()
    torch.save(weights, content)
    with replace_together(folder, sign=CONFIG_FILE) as new:
        with atomic_write(new / FILE, "wb") as file:
            file.write(content.getvalue())
        with atomic_write(new / TOKENS_FILE) as file:
            file.write("".join(f"{token}\n" for token in tokens))
        with atomic_write(new / CONFIG_FILE) as file:
            yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    return folder / FILE
