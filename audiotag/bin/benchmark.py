"""Measure clips/s and memory of a configuration: data alone, model alone, both together.

Beside it, on request, the same AST in `transformers`, or a BEATs whose attention is written out step by step,
in turn with ours, on the same features.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from audiotag.atomic import atomic_write
from audiotag.benchmarking import Benchmark, count_parameters
from audiotag.commandline import add_config_arguments, config_from_args, make_parser, positive
from audiotag.config import Config
from audiotag.distributed import choose_device
from audiotag.errors import run_command
from audiotag.logs import set_up_logging
from audiotag.provenance import collect_provenance
from audiotag.stopwatch import Stopwatch

KINDS = {
    "data": "data alone (loader of the recipe)",
    "frontend": "front end alone (waveforms to features)",
    "forward": "model alone, forward",
    "train": "model alone, forward + backward + optimiser step",
    "together": "data and model together, training",
}


def main() -> None:
    args = parse_arguments()
    config = config_from_args(args)
    set_up_logging(verbose=args.verbose)
    device = choose_device(args.device)
    batch_size = args.batch_size or config.data.batch_size or 16
    speed = {"compile": args.compile or config.training.compile}
    speed["activation_checkpointing"] = (
        args.activation_checkpointing or config.training.activation_checkpointing
    )
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"batch_size": batch_size, "max_duration_s": None}),
            "training": config.training.model_copy(update=speed),
        }
    )
    watch = Stopwatch(device, steps=args.steps, rounds=args.rounds)
    logging.getLogger("audiotag.benchmark").info("measuring on %s", device)
    benchmark = Benchmark(config, device, args.data_dir)
    report = {
        "settings": settings(config, benchmark, args),
        "environment": environment(device),
        **benchmark.run(watch),
        "compared_with": args.compare,
        "comparison": benchmark.compare(watch, args.compare) if args.compare else None,
    }
    print(table(report))
    if args.json:
        with atomic_write(args.json) as file:
            json.dump(report, file, indent=2)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("benchmark", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--batch-size", type=positive, help="clips of a batch (default: data.batch_size of the config)"
    )
    parser.add_argument(
        "--compile", choices=["off", "model", "blocks"], help="takes the place of training.compile"
    )
    parser.add_argument(
        "--activation-checkpointing", action="store_true", help="sets training.activation_checkpointing"
    )
    parser.add_argument("--steps", type=positive, default=5, help="steps of a round")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds of every measurement")
    parser.add_argument(
        "--compare",
        choices=["transformers", "eager"],
        help="measure the same AST in transformers as well, or a BEATs whose attention is written out",
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args()


def settings(config: Config, benchmark: Benchmark, args: argparse.Namespace) -> dict[str, Any]:
    """What was measured."""
    return {
        "config": args.config,
        "overrides": args.overrides,
        "encoder": config.encoder.name,
        "parameters": count_parameters(benchmark.tagger),
        "classes": len(benchmark.tagger.labels),
        "frames": benchmark.features.shape[1],
        "batch_size": config.data.batch_size,
        "num_workers": config.data.num_workers,
        "amp": config.training.amp,
        "compile": config.training.compile,
        "activation_checkpointing": config.training.activation_checkpointing,
        "tf32": config.training.tf32,
        "steps": args.steps,
        "rounds": args.rounds,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Where it was measured."""
    try:
        transformers = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        transformers = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "transformers": transformers,
        **collect_provenance(),
    }


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(report: dict[str, Any]) -> str:
    """The figures for people: median over the rounds, and lowest to highest."""
    what, where, memory = report["settings"], report["environment"], report["peak_memory"]
    lines = [
        f"encoder {what['encoder']}, {what['parameters']:,} parameters, {what['classes']} classes; "
        f"batches of {what['batch_size']} x {what['frames']} frames; "
        f"amp {what['amp']}, compile {what['compile']}, activation checkpointing "
        f"{'on' if what['activation_checkpointing'] else 'off'}",
        f"{where['device']}, {where['threads']} threads; python {where['python']}, torch {where['torch']}, "
        f"transformers {where['transformers'] or 'not installed'}; "
        f"{what['rounds']} rounds of {what['steps']} steps",
        "",
        f"{'clips/s':<52}{'median':>10}  lowest - highest",
    ]
    for kind, title in KINDS.items():
        rate = report["clips_per_s"][kind]
        lines.append(row(title, rate) if rate else f"{title:<52}{'-':>10}")
    if report["mfu"] is not None:
        lines.append(f"share of the device's peak that training uses (MFU): {100 * report['mfu']:.1f} %")
    if report["no_data"]:
        lines.append(f"no data measured: {report['no_data']}")
    lines += [
        "",
        f"{memory['kind']}: {memory['forward_mib']:,.0f} MiB forward, "
        f"{memory['train_mib']:,.0f} MiB training",
    ]
    if report["comparison"]:
        other = report["compared_with"]
        ours, theirs = (report["comparison"]["kept_mib"][name] for name in ("ours", "theirs"))
        lines.append(f"kept for the backward pass: ours {ours:,.0f} MiB, {other} {theirs:,.0f} MiB")
        lines += ["", f"clips/s in turn with {other}, and the ratio of each round"]
        for kind in ("forward", "train"):
            figures = report["comparison"][kind]
            lines.append(row(f"ours, {kind}", figures["ours"]))
            lines.append(row(f"{other}, {kind}", figures["theirs"]))
            lines.append(row(f"ratio ours / {other}, {kind}", figures["ratio"]))
    return "\n".join(lines)


def row(title: str, values: dict[str, float]) -> str:
    """One line of the table, to three digits."""
    median, low, high = (
        f"{values[key]:,.0f}" if values[key] >= 100 else f"{values[key]:.3g}"
        for key in ("median", "lowest", "highest")
    )
    return f"{title:<52}{median:>10}  {low} - {high}"


if __name__ == "__main__":
    run_command(main)
