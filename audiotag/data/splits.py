"""Where the manifests of a recipe's splits are, and which stage makes one that is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audiotag.data.index import IndexedManifest
from audiotag.errors import DataError
from audiotag.labels import LabelTable


def manifest_path(data_dir: Path, split: str, *, preset: str, storage: str) -> Path:
    """The manifest that training and evaluation read: with stored features, or plain."""
    folder = data_dir / "fbank" / preset if storage == "stored" else data_dir / "manifests"
    return folder / f"cuts_{split}.jsonl"


def open_split(data_dir: Path, split: str, *, preset: str, storage: str) -> IndexedManifest:
    """The indexed manifest of a split, or an error that names the stage to run."""
    path = manifest_path(data_dir, split, preset=preset, storage=storage)
    if not path.is_file():
        stage = 2 if storage == "stored" else 1
        raise DataError(f"{path} is missing; stage {stage} makes it (./run.sh --stage {stage})")
    return IndexedManifest([path])


def read_labels(data_dir: Path) -> LabelTable:
    """The label table that stage 1 left."""
    path = data_dir / "manifests" / "labels.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing; stage 1 makes it (./run.sh --stage 1)")
    return LabelTable.read(path)


def read_coverage(data_dir: Path) -> dict[str, Any]:
    """Clips present of clips listed, per split, as stage 1 counted them."""
    path = data_dir / "manifests" / "coverage.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; stage 1 makes it (./run.sh --stage 1)") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged ({error}); run stage 1 again with --force") from None
