"""All that can be looked at before a run: machine, processes, configuration, corpus, disk, folders."""

from __future__ import annotations

from pathlib import Path

from audiotag.checks.corpus import check_corpus
from audiotag.checks.finding import Finding, failed, ok
from audiotag.checks.folder import check_folders
from audiotag.checks.machine import check_machine
from audiotag.checks.mixing import check_mixing
from audiotag.checks.models import check_models
from audiotag.checks.processes import Place, meet
from audiotag.checks.space import ModelSize, check_space
from audiotag.config import Config
from audiotag.data.splits import read_labels
from audiotag.errors import AudiotagError
from audiotag.labels import Label, LabelTable
from audiotag.tagger import build_tagger
from audiotag.training.globalbatch import share_batches
from audiotag.training.loaders import fill_in_statistics

# The head is a small part of a model whose classes are not known yet.
USUAL_CLASSES = 527


def preflight(
    config: Config, data_dir: Path, exp_dir: Path, *, device: str, timeout_s: float, num_clips: int
) -> list[Finding] | None:
    """Every check, on every process of a launcher; None on those that are not the first.

    Args:
        config: of the recipe.
        data_dir: of stages 1-4.
        exp_dir: of the run; it is not made.
        device: see `choose_device`.
        timeout_s: how long the processes wait for each other.
        num_clips: clips of each split that are read.
    """
    place = Place.from_environment()
    findings = meet(place, device, timeout_s, check_machine(config, place, device))
    if findings is None or place.rank != 0:
        return findings
    model, size = check_model(config, data_dir, place.size)
    return [
        model,
        *findings,
        *check_models(config, data_dir, exp_dir),
        *check_corpus(config, data_dir, num_clips),
        *check_mixing(config, data_dir, num_clips),
        *check_folders(data_dir, exp_dir),
        *check_space(config, data_dir, exp_dir, size),
    ]


def check_model(config: Config, data_dir: Path, processes: int) -> tuple[Finding, ModelSize]:
    """Build the model, and say what will be trained; how large it is."""
    try:
        labels = read_labels(data_dir)
    except AudiotagError:
        labels = LabelTable([Label(i, f"class_{i}", f"class {i}") for i in range(USUAL_CLASSES)])
    sections = config.model_dump(mode="json")
    if config.features.normalization == "corpus":
        try:
            sections = fill_in_statistics(config, data_dir).model_dump(mode="json")
        except AudiotagError:  # stage 4 will measure them
            sections["features"]["normalization"] = "preset"
    try:
        training = share_batches(config, processes).training
        tagger = build_tagger(sections["features"], sections["encoder"], labels)
    except Exception as error:
        return failed("configuration", error), ModelSize()
    count = sum(parameter.numel() for parameter in tagger.parameters())
    data = config.data
    limits = [f"{data.batch_size} clips"] if data.batch_size else []
    limits += [f"{data.max_duration_s} s"] if data.max_duration_s else []
    factor = processes * training.accumulate
    text = (
        f"{config.encoder.name} with {count / 1e6:.1f} M parameters, {training.epochs} epochs, "
        f"{config.optimizer.name}, {training.amp if training.amp != 'off' else 'float32'}; an update has at "
        f"most {' or '.join(limits) or 'any number of clips'} x {factor}"
    )
    return ok("configuration", text), ModelSize(count, len(labels), tagger.encoder.output_dim)
