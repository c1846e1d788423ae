"""Clips/s of one core that loads batches, next to lhotse's `AudioTaggingDataset` on the same files.

Sound files are generated, batches of both compared value by value, then both are timed in turn: waveforms,
features computed from them on the CPU, and stored features.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse import CutSet, Fbank, FbankConfig
from lhotse.dataset import AudioTaggingDataset, SimpleCutSampler
from lhotse.dataset.input_strategies import AudioSamples, OnTheFlyFeatures, PrecomputedFeatures
from torch.utils.data import DataLoader

from audiotag.commandline import positive
from audiotag.corpora.features import extract_features
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.loader import TrainingLoader
from audiotag.data.trainingset import TrainingDataset
from audiotag.errors import DataError
from audiotag.frontend import Frontend
from audiotag.processors import one_core
from audiotag.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

PRESET = "icefall80"
NUM_CLASSES = 527
TARGET = 1.0
HIGHEST_RESAMPLED_HZ = 4000
# Rate, channels and extension of the generated files.
FILES = {
    "wav, 16 kHz": (16000, 1, "wav"),
    "FLAC, 16 kHz": (16000, 1, "flac"),
    "wav, 44.1 kHz stereo": (44100, 2, "wav"),
}


@dataclass(frozen=True)
class Task:
    """One kind of work, done by both on the same clips.

    Args:
        name: what the table calls it.
        manifest: the clips.
        storage: of our loader.
        featurize: we add the front end on the CPU.
        strategy: what lhotse makes batches with.
        tolerance: how far values may be apart.
    """

    name: str
    manifest: Path
    storage: str
    featurize: bool
    strategy: Callable[[], Any]
    tolerance: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the measurement."""
    parser.add_argument("--clips", type=positive, default=400, help="clips generated of each kind of file")
    parser.add_argument("--duration-s", type=float, default=10.0, help="length of a clip in seconds")
    parser.add_argument("--batch-size", type=positive, default=16, help="clips of a batch")
    parser.add_argument("--rounds", type=positive, default=7, help="passes over the clips, each timed")
    parser.add_argument(
        "--num-workers", type=int, default=0, help="loader processes of each; 0 loads on one core"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the files are made and kept (default: a temporary folder)"
    )


def run(args: argparse.Namespace) -> str:
    """Measure, and give the figures as a Markdown table."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_core() if args.num_workers == 0 else contextlib.nullcontext())
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        watch = Stopwatch(torch.device("cpu"), steps=1, rounds=args.rounds)
        lines = [
            f"{args.clips} clips of {args.duration_s:g} s, batches of {args.batch_size}, "
            f"{args.num_workers} workers, {args.rounds} rounds in turn; median (lowest to highest)",
            "",
            "| what | audiotag, clips/s | lhotse, clips/s | ratio | target |",
            "|---|---|---|---|---|",
        ]
        for task in prepare_tasks(folder, args.clips, args.duration_s):
            ours = own_batches(task, args.batch_size, args.num_workers)
            theirs = lhotse_batches(task, args.batch_size, args.num_workers)
            check_agreement(task, ours, theirs)
            logger.info("measuring %s", task.name)
            result = watch.compare(lambda o=ours: count(o()), lambda t=theirs: count(t()))
            cells = [show(result[key], digits) for key, digits in (("ours", 0), ("theirs", 0), ("ratio", 2))]
            lines.append(f"| {task.name} | {' | '.join(cells)} | {TARGET:.1f} |")
    return "\n".join(lines)


def prepare_tasks(folder: Path, num_clips: int, duration_s: float) -> list[Task]:
    """Generate the files, and list what is done with them."""
    manifests = {name: generate(folder, name, num_clips, duration_s) for name in FILES}
    plain = manifests["wav, 16 kHz"]
    stored = folder / "stored" / "cuts_train.jsonl"
    logger.info("extracting features")
    extract_features(IndexedManifest(plain), stored, preset=PRESET)

    def fbank() -> OnTheFlyFeatures:
        return OnTheFlyFeatures(Fbank(FbankConfig(num_mel_bins=80)))

    def samples() -> AudioSamples:
        return AudioSamples(mono_downmix=True)

    mono = {name: path for name, path in manifests.items() if FILES[name][1] == 1}  # all that lhotse takes
    return [
        *(
            # lhotse's filter is not as steep as ours, which shows most at the ends of a clip.
            Task(f"waveforms, {n}", path, "on_the_fly", False, samples, 1e-4 if n in mono else 5e-3)
            for n, path in manifests.items()
        ),
        *(Task(f"features of {n}", path, "on_the_fly", True, fbank, 5e-3) for n, path in mono.items()),
        Task("features stored, lilcom", stored, "stored", False, PrecomputedFeatures, 1e-6),
    ]


def generate(folder: Path, name: str, num_clips: int, duration_s: float) -> Path:
    """Sound files of one kind and their manifest."""
    rate, num_channels, extension = FILES[name]
    target = folder / f"{extension}{rate}"
    target.mkdir(parents=True, exist_ok=True)
    logger.info("generating %d files: %s", num_clips, name)
    lines = []
    for number in range(num_clips):
        path = target / f"{number}.{extension}"
        samples = sound(np.random.default_rng(number), round(duration_s * rate), num_channels, rate)
        soundfile.write(path, samples, rate, subtype="PCM_16")
        lines.append(json.dumps(cut(f"clip-{number}", path, len(samples), rate, num_channels)) + "\n")
    manifest = target / "cuts_train.jsonl"
    manifest.write_text("".join(lines))
    return manifest


def sound(rng: np.random.Generator, num_samples: int, num_channels: int, rate: int) -> np.ndarray:
    """Samples (S,C) of noise with little energy in the treble, as recordings have: FLAC's usual work.

    What is going to be resampled has none near the new limit, where lhotse's filter begins to fall earlier.
    """
    white = rng.standard_normal((num_samples, num_channels))
    spectrum = np.fft.rfft(white, axis=0)
    spectrum /= np.sqrt(1.0 + np.arange(len(spectrum)))[:, None]
    if rate != Frontend.sampling_rate:
        spectrum[round(HIGHEST_RESAMPLED_HZ * num_samples / rate) :] = 0.0
    samples = np.fft.irfft(spectrum, num_samples, axis=0)
    return 0.5 * samples / np.abs(samples).max()


def cut(clip_id: str, path: Path, num_samples: int, rate: int, num_channels: int) -> dict[str, Any]:
    """A whole file as a lhotse cut with a label."""
    channels = list(range(num_channels))
    common = {"start": 0.0, "duration": num_samples / rate, "channel": channels if num_channels > 1 else 0}
    return {
        "id": clip_id,
        **common,
        "supervisions": [
            {"id": clip_id, "recording_id": clip_id, **common, "custom": {"audio_event": "0;137"}}
        ],
        "recording": {
            "id": clip_id,
            "sources": [{"type": "file", "channels": channels, "source": str(path.absolute())}],
            "sampling_rate": rate,
            "num_samples": num_samples,
            "duration": num_samples / rate,
            "channel_ids": channels,
        },
        "type": "MultiCut" if num_channels > 1 else "MonoCut",
    }


# A pass over all clips: ids and inputs of each batch.
Pass = Callable[[], Iterator[tuple[list[str], torch.Tensor]]]


def own_batches(task: Task, batch_size: int, num_workers: int) -> Pass:
    """Our loader as training uses it."""
    manifest = IndexedManifest(task.manifest)
    plan = BatchPlan(manifest.durations, seed=0, batch_size=batch_size)
    dataset = TrainingDataset(
        manifest,
        storage=task.storage,
        num_classes=NUM_CLASSES,
        seed=0,
        substitutes=plan.substitutes,
    )
    loader = TrainingLoader(dataset, plan.batches, num_workers=num_workers, max_unreadable=0.0)
    frontend = Frontend(PRESET) if task.featurize else None

    def batches() -> Iterator[tuple[list[str], torch.Tensor]]:
        for batch in loader(1):
            inputs = batch["inputs"]
            if frontend is not None:
                inputs, _ = frontend(inputs, batch["lengths"])
            yield batch["ids"], inputs

    return batches


def lhotse_batches(task: Task, batch_size: int, num_workers: int) -> Pass:
    """lhotse's dataset and sampler with the cuts in memory, which spares it the reading of the manifest."""
    cuts = CutSet.from_jsonl(task.manifest)
    if task.storage == "on_the_fly":
        cuts = cuts.resample(Frontend.sampling_rate)
    dataset = AudioTaggingDataset(input_strategy=task.strategy(), return_cuts=True)
    sampler = SimpleCutSampler(cuts.to_eager(), max_cuts=batch_size, shuffle=True, seed=0)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers)

    def batches() -> Iterator[tuple[list[str], torch.Tensor]]:
        for batch in loader:
            yield [cut.id for cut in batch["supervisions"]["cut"]], batch["inputs"]

    return batches


def check_agreement(task: Task, ours: Pass, theirs: Pass) -> None:
    """Both must deliver the same clips with the same values before it makes sense to time them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, other = (
            {clip: row for ids, inputs in batches() for clip, row in zip(ids, inputs, strict=True)}
            for batches in (ours, theirs)
        )
    if mine.keys() != other.keys():
        raise DataError(f"{task.name}: lhotse loads {len(other)} clips, we {len(mine)}")
    for clip, row in mine.items():
        if row.shape != other[clip].shape or (row - other[clip]).abs().max() > task.tolerance:
            raise DataError(f"{task.name}: clip {clip} is not the same for lhotse: the figures would mislead")


def count(batches: Iterator[tuple[list[str], torch.Tensor]]) -> int:
    """Go through a pass; number of its clips."""
    return sum(len(inputs) for _, inputs in batches)


def show(spread: dict[str, float], digits: int) -> str:
    """A table cell."""
    low, high = (f"{spread[key]:.{digits}f}" for key in ("lowest", "highest"))
    return f"{spread['median']:.{digits}f} ({low} to {high})"
