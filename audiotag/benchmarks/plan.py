"""Measuring the index and the batch plan on a generated manifest, against what they are meant to reach."""

from __future__ import annotations

import argparse
import logging
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audiotag.benchmarks.generated import first_cuts, generated_manifest
from audiotag.benchmarks.index import (
    BATCHES_COMPARED,
    measure_build,
    measure_opening,
    measure_resumption,
    measure_sharing,
)
from audiotag.benchmarks.processes import Clock, in_fresh_process, machine, read_memory
from audiotag.commandline import positive
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.sampling import PlanSource

logger = logging.getLogger(__name__)

SEED = 1
EPOCHS = range(1, 6)
# A small and a large source, as AudioSet's balanced and unbalanced train lists are.
SMALL_SOURCE = 0.01
MODES: dict[str, dict[str, Any]] = {
    "shuffle, by count": {},
    "shuffle, by duration": {"by_duration": True},
    "weighted with replacement, by count": {"weighted": True},
    "weighted without replacement, by count": {"weighted": True, "replacement": False},
    "buckets, by count": {"buckets": True},
    "buckets, by duration": {"buckets": True, "by_duration": True},
    "weighted + buckets, by duration": {"weighted": True, "buckets": True, "by_duration": True},
    "two sources, by count": {"sources": True},
    "two sources + weighted + buckets, by duration": {
        "sources": True,
        "weighted": True,
        "buckets": True,
        "by_duration": True,
    },
}


class Planning(NamedTuple):
    """Planning an epoch in one mode on one rank."""

    set_up_s: float
    epoch_s: float
    planned: int
    own: int
    private_mib: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `benchmark_data plan`."""
    parser.add_argument("--cuts", type=positive, default=2_000_000, help="size of the generated manifest")
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the manifest is written, 0.6 GB for each million cuts; one that is there is used again",
    )
    parser.add_argument(
        "--world-sizes",
        type=positive,
        nargs="+",
        default=[1, 8, 64],
        metavar="N",
        help="numbers of ranks to plan for",
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="clips of a batch, by count")
    parser.add_argument(
        "--max-duration-s", type=float, default=160.0, metavar="S", help="seconds of a batch, by duration"
    )
    parser.add_argument("--num-buckets", type=positive, default=30, help="length buckets")
    parser.add_argument(
        "--processes", type=positive, default=4, help="processes that open the manifest at the same time"
    )
    parser.add_argument(
        "--lhotse",
        type=positive,
        metavar="N",
        help="also measure lhotse on the first N cuts: loading them, and batches from dynamic buckets",
    )


def run(args: argparse.Namespace) -> str:
    """Measure everything; the figures as Markdown tables."""
    logger.info("generating %d cuts in %s", args.cuts, args.folder)
    path = generated_manifest(args.folder, args.cuts)
    sections = [
        f"{args.cuts:,} cuts, {path.stat().st_size / 2**20:,.0f} MiB of JSON lines; {machine()}",
        index_table(path, args),
        plan_table(path, args),
    ]
    if args.lhotse:
        sections.append(lhotse_table(first_cuts(path, args.lhotse), args))
    return "\n\n".join(sections)


def index_table(path: Path, args: argparse.Namespace) -> str:
    """Building, opening, memory and resuming."""
    logger.info("building the index")
    build = measure_build(path)
    logger.info("opening it")
    openings = measure_opening(path)
    shared = measure_sharing(path, args.processes)
    logger.info("resuming in the middle of an epoch")
    world_size = max(args.world_sizes)
    resumed, same, complete = measure_resumption(
        path, plan_options(MODES["buckets, by duration"], args), world_size
    )
    median = statistics.median
    rows = [
        (
            "build the index, once",
            f"{build.seconds:.1f} s ({build.seconds / args.cuts * 1e6:.1f} µs a cut)",
            "",
        ),
        ("memory while building, at the peak", f"{build.peak_mib:.0f} MiB", ""),
        ("size of the index", f"{build.size_mib:.0f} MiB", ""),
        ("open", f"{median(o.seconds for o in openings):.2f} s", "< 1 s"),
        (
            "extra private memory of a process alone, after opening and reading all durations",
            f"{max(o.durations.private for o in openings):.1f} MiB",
            "< 150 MB",
        ),
        (
            "the same after reading all columns (resident: with what is shared)",
            f"{max(o.all_columns.private for o in openings):.1f} MiB "
            f"(resident {max(o.all_columns.resident for o in openings):.1f} MiB)",
            "< 150 MB",
        ),
        (
            f"all columns, {args.processes} processes at once: private; with a part of what they share (PSS)",
            f"{max(m.private for m in shared):.1f} MiB, {max(m.proportional for m in shared):.1f} MiB each",
            "< 150 MB",
        ),
        (
            "memory that a forked loader worker writes by reading cuts all over the manifest",
            f"{max(o.worker.written for o in openings):.1f} MiB",
            "about 0",
        ),
        ("read one cut at random", f"{median(o.record_us for o in openings):.0f} µs", ""),
        (
            f"resume in the middle, rank {world_size - 1} of {world_size}: open, plan, read the first batch",
            f"{resumed.seconds:.2f} s",
            "< 5 s",
        ),
        (f"the next {BATCHES_COMPARED} batches are those of an uninterrupted run", yes(same), "yes"),
        ("other numbers of ranks get the rest of the epoch, each clip once", yes(complete), "yes"),
    ]
    return table(("index", "measured", "target"), rows)


def plan_table(path: Path, args: argparse.Namespace) -> str:
    """Planning an epoch in every mode for every number of ranks."""
    in_fresh_process(save_weights, path)
    rows = []
    for name, mode in MODES.items():
        logger.info("planning: %s", name)
        measured = in_fresh_process(measure_mode, path, mode, args)
        rows.append(
            (
                name,
                f"{max(p.set_up_s for p in measured):.2f}",
                " / ".join(f"{p.epoch_s:.2f}" for p in measured),
                " / ".join(f"{p.planned / p.epoch_s / 1e6:.1f}" for p in measured),
                " / ".join(f"{p.own / p.epoch_s / 1e6:.2f}" for p in measured),
                f"{max(p.private_mib for p in measured):.0f}",
            )
        )
    sizes = " / ".join(map(str, args.world_sizes))
    header = (
        "plan",
        "set-up, once, s",
        f"an epoch for {sizes} ranks, s, best of {len(EPOCHS)} (target < 2)",
        "million clips/s that a rank plans (target >= 0.5)",
        "of these its own",
        "private MiB",
    )
    return table(header, rows)


def measure_mode(path: Path, mode: dict[str, Any], args: argparse.Namespace) -> list[Planning]:
    """One mode on the last rank of each number of ranks; the best of several epochs."""
    manifest = IndexedManifest(path)
    options = plan_options(mode, args)
    if mode.get("weighted"):
        options["weights"] = np.load(weights_path(path))
    results = []
    for world_size in args.world_sizes:
        before, clock = read_memory(), Clock()
        plan = BatchPlan(manifest.durations, world_size=world_size, rank=world_size - 1, **options)
        set_up_s, times = clock.read_s(), []
        for epoch in EPOCHS:
            clock = Clock()
            batches = plan.batches(epoch)
            times.append(clock.read_s())
        own = sum(len(batch) for batch in batches)
        private_mib = read_memory().since(before).private
        results.append(Planning(set_up_s, min(times), plan.samples_per_epoch, own, private_mib))
    return results


def save_weights(path: Path) -> None:
    """Write the sampling weights that stage 4 would give the manifest's cuts."""
    # Brings torch along, which takes seconds: other processes load what this one wrote.
    from audiotag.corpora.stats import class_balanced_weights

    manifest = IndexedManifest(path)
    np.save(weights_path(path), class_balanced_weights(manifest.label_ids, manifest.label_starts))


def weights_path(path: Path) -> Path:
    """Where the sampling weights of a manifest are."""
    return path.with_suffix(".weights.npy")


def plan_options(mode: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a BatchPlan for one of the modes, all but the weights."""
    options: dict[str, Any] = {"seed": SEED, "replacement": mode.get("replacement", True)}
    if mode.get("by_duration"):
        options["max_duration_s"] = args.max_duration_s
    else:
        options["batch_size"] = args.batch_size
    if mode.get("buckets"):
        options["num_buckets"] = args.num_buckets
    if mode.get("sources"):
        border = max(1, int(args.cuts * SMALL_SOURCE))
        options["sources"] = [PlanSource(0, border, 1.0), PlanSource(border, args.cuts, 9.0)]
    return options


def lhotse_table(path: Path, args: argparse.Namespace) -> str:
    """lhotse and ours on the same cuts, one after the other."""
    from audiotag.benchmarks.lhotsecuts import measure_bucketing, measure_eager

    logger.info("lhotse on the first %d cuts", args.lhotse)
    eager = measure_eager(path)
    measure_build(path)
    opening = measure_opening(path)[-1]
    ours = in_fresh_process(measure_mode, path, MODES["buckets, by duration"], args)
    rows = [
        (
            "have the manifest: time a cut",
            f"{eager.us_per_cut:.1f} µs",
            f"{opening.seconds / args.lhotse * 1e6:.3f} µs",
        ),
        (
            "have the manifest: private bytes a cut",
            f"{eager.bytes_per_cut:,.0f}",
            f"{opening.durations.private * 2**20 / args.lhotse:,.0f}",
        ),
    ]
    for world_size, planning in zip(args.world_sizes, ours, strict=True):
        theirs = measure_bucketing(path, world_size, args.max_duration_s, args.num_buckets)
        own = planning.own / planning.epoch_s
        rows.append(
            (f"a rank's own clips/s from buckets, {world_size} ranks", f"{theirs:,.0f}", f"{own:,.0f}")
        )
    return table((f"the first {args.lhotse:,} cuts", "lhotse", "audiotag"), rows)


def yes(value: bool) -> str:
    """A truth for people."""
    return "yes" if value else "NO"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
