"""What a run writes down of itself: in each checkpoint, and in the config.yaml of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiotag.atomic import atomic_write
from audiotag.config import Config
from audiotag.configfile import dump_yaml
from audiotag.data.index import IndexedManifest
from audiotag.data.normalization import warn_of_foreign_normalization
from audiotag.data.splits import read_coverage
from audiotag.distillation.teachers import Teachers
from audiotag.labels import LabelTable
from audiotag.lossweights import class_weights
from audiotag.provenance import collect_provenance
from audiotag.restarts import launch_lines
from audiotag.tagger import build_frontend
from audiotag.training.classweights import class_counts
from audiotag.training.resume import fingerprint


def make_record(
    config: Config,
    data_dir: Path,
    labels: LabelTable,
    manifest: IndexedManifest,
    trained_on: Any,
    teachers: Teachers | None = None,
) -> dict[str, Any]:
    """What every checkpoint carries besides the state.

    Args:
        manifest: the recipe's own train set.
        trained_on: what the batches are of: the same, or a mix with other sets.
        teachers: of distillation.
    """
    return {
        "config": config.model_dump(mode="json"),
        "labels": labels.to_rows(),
        "coverage": read_coverage(data_dir, config.features.stats_name),
        "train_data": fingerprint(manifest),
        "mixed_data": fingerprint(trained_on) if config.data.sources else None,
        "class_weights": class_weights(
            config.loss.class_weights, labels, class_counts(config, trained_on, len(labels))
        ).tolist(),
        "init": None,
        "teachers": teachers and teachers.describe(),
        "provenance": collect_provenance(),
    }


def write_config(config: Config, record: dict[str, Any], exp_dir: Path) -> None:
    """Put the completed configuration into the folder, and warn where it does not suit the data."""
    frontend = build_frontend(record["config"]["features"])
    warn_of_foreign_normalization(frontend, record["coverage"], "train")
    with atomic_write(exp_dir / "config.yaml") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in record["provenance"].items())
        file.writelines(f"{line}\n" for line in launch_lines())
        file.write(dump_yaml(config))
