"""Read Hugging Face's AST: a folder with config.json, weights and, as a rule, preprocessor_config.json.

Weights lie in model.safetensors or pytorch_model.bin, in one file or in several with an index. A labels.csv
beside them, as our export writes it, gives the classes their MIDs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from audiotag.data.stagefiles import parse_object
from audiotag.errors import CheckpointError
from audiotag.interop.foreignweights import as_weights, check_fit, read_torch_file
from audiotag.interop.hfconfig import encoder_section, features_section, loss_of, read_classes
from audiotag.interop.hfnames import to_foreign, to_own
from audiotag.interop.sourcemodel import Hints, SourceModel, complete, make_layout
from audiotag.labels import LabelTable

logger = logging.getLogger(__name__)

WHAT = "an AST"
CONFIG_FILE = "config.json"
EXTRACTOR_FILE = "preprocessor_config.json"
LABELS_FILE = "labels.csv"
# In the order in which they are looked for.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_SUFFIX = ".index.json"


def is_huggingface(path: Path, content: Any) -> bool:
    """Whether a folder's config.json is one of theirs."""
    return path.is_dir() and isinstance(content, Mapping) and "model_type" in content


def read_huggingface(path: Path, hints: Hints) -> SourceModel:
    """The model of a folder."""
    config = read_json(path / CONFIG_FILE) if path.is_dir() else None
    if config is None:
        raise CheckpointError(f"{path} is not the folder of a Hugging Face model: it has no {CONFIG_FILE}")
    encoder = encoder_section(config, path / CONFIG_FILE)
    features = features_section(config, read_json(path / EXTRACTOR_FILE), path / EXTRACTOR_FILE)
    features, encoder = complete({"features": features, "encoder": encoder}, path / CONFIG_FILE)
    layout = make_layout(features, encoder)
    files = find_weights(path)
    weights = to_own(read_weights(files), path)
    if config.get("qkv_bias", True) is False:
        # Ours always has the bias: zeros are the same function.
        for index in range(encoder["depth"]):
            weights[f"encoder.blocks.{index}.attn.qkv.bias"] = torch.zeros(3 * encoder["embed_dim"])
    labels = read_classes(config, path / CONFIG_FILE)
    # Under their names, so that an error shows those.
    check_fit(to_foreign(expected_tensors(layout, weights)), to_foreign(weights), path, WHAT)
    if "head.bias" in weights and labels is not None:
        labels = with_mids(labels, path / LABELS_FILE)
        if len(labels) != len(weights["head.bias"]):
            raise CheckpointError(
                f"{path}: id2label names {len(labels)} classes, the classifier has "
                f"{len(weights['head.bias'])}"
            )
    else:
        labels = None
    return SourceModel(path, tuple(files), weights, encoder, features, layout, labels, loss_of(config))


def expected_tensors(layout: torch.nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an AST by a tagger's names; with those of a head where there is any of it."""
    expected = {f"encoder.{name}": value for name, value in layout.state_dict().items()}
    if any(name.startswith("head") for name in weights):
        width = layout.output_dim
        num_classes = len(weights["head.bias"]) if "head.bias" in weights else 1
        shapes = {"head_norm.weight": [width], "head_norm.bias": [width]}
        shapes |= {"head.weight": [num_classes, width], "head.bias": [num_classes]}
        expected |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return expected


def with_mids(labels: LabelTable, path: Path) -> LabelTable:
    """The same classes as a labels.csv has them, if there is one and its names are the same."""
    if not path.is_file():
        return labels
    table = LabelTable.read(path)
    if table.names != labels.names:
        logger.warning("%s has other classes than id2label in config.json: it is left out", path)
        return labels
    return table


def find_weights(folder: Path) -> list[Path]:
    """The files that hold a folder's weights."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = read_json(folder / f"{name}{INDEX_SUFFIX}")
        if index is not None:
            parts = index.get("weight_map")
            if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
                raise CheckpointError(f"{folder / name}{INDEX_SUFFIX}: damaged: it has no weight_map")
            return [folder / Path(part).name for part in sorted(set(parts.values()))]
    raise CheckpointError(f"{folder} has no weights: neither {' nor '.join(WEIGHT_FILES)}")


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """The tensors of all files, in float32."""
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= as_weights(
            read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path), path
        )
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing, which the index names") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is no file."""
    try:
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
