"""The AST beside the one of `transformers` with the same weights: logits, clips/s, memory, share of the peak.

Before anything is timed, the logits of both must agree. Every speed is measured in rounds of ours and theirs
in turn; memory in a process of its own for each, which does nothing else. Beside the clock stands, on a CPU,
the processor time of this process, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.benchmarking import DEFAULT_CLASSES, Steps, count_parameters
from audiotag.benchmarks.processes import in_fresh_process, machine
from audiotag.benchmarks.twin import Twin, build_twin, fresh_twin
from audiotag.commandline import add_config_arguments, config_from_args, positive
from audiotag.config import Config
from audiotag.distributed import World, choose_device
from audiotag.encoders.ast import NUM_SUMMARY_TOKENS, patch_grid
from audiotag.errors import ConfigError, TrainingError
from audiotag.evaluation.tables import Table, number
from audiotag.labels import Label, LabelTable
from audiotag.matrixproducts import allow_tf32
from audiotag.provenance import collect_provenance
from audiotag.stopwatch import PeakMemory, Spread, Stopwatch, Work, spread
from audiotag.tagger import Tagger, build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.flops import peak_flops, training_flops

logger = logging.getLogger(__name__)

STRIDES = (10, 12, 14, 16)
KINDS = {"forward": "forward", "train": "training step"}
# Of float32 logits whose largest are about 1.
TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_config_arguments(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument("--batch-size", type=positive, default=1, help="clips of a batch")
    parser.add_argument(
        "--compile", nargs="+", choices=["off", "model"], default=["off", "model"], help="eager, compiled"
    )
    parser.add_argument(
        "--amp", nargs="+", choices=["off", "bf16", "fp16"], default=["off", "bf16"], help="precisions"
    )
    parser.add_argument("--steps", type=positive, default=1, help="steps of a round")
    parser.add_argument("--rounds", type=positive, default=7, help="rounds of every measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def run(args: argparse.Namespace) -> str:
    """Measure, and give the figures as Markdown tables."""
    config, device = config_from_args(args), choose_device(args.device)
    if config.encoder.name != "ast":
        raise ConfigError(f"encoder.name is {config.encoder.name}: this benchmark is about ast")
    allow_tf32(config.training.tf32)
    report: dict[str, Any] = {
        "strides": [sizes_of(config, stride) for stride in STRIDES],
        "logits": compare_logits(config, device, args.batch_size),
        "speed": [],
    }
    watch = Stopwatch(device, steps=args.steps, rounds=args.rounds)
    for compile in args.compile:
        for amp in args.amp:
            of_variant = with_training(config, compile=compile, amp=amp)
            for kind in KINDS:
                logger.info("measuring %s, %s, %s", kind, amp, "eager" if compile == "off" else "compiled")
                figures = measure(of_variant, device, args.batch_size, kind, watch)
                logger.info("ratio ours / transformers: %s", shown(figures["ratio"]))
                report["speed"].append({"compile": compile, "amp": amp, "kind": kind, **figures})
    if args.json:
        with atomic_write(args.json) as file:
            json.dump({**report, "provenance": collect_provenance()}, file, indent=2)
    head = (
        f"batches of {args.batch_size}, {torch.get_num_threads()} threads on {device}, {machine()}; "
        f"{args.rounds} rounds of {args.steps} steps; median (lowest to highest)"
    )
    gap = f"Largest difference of logits: {report['logits']:.1e}."
    tables = [sizes_table(report["strides"]), speed_table(report["speed"])]
    return "\n\n".join([head, tables[0].markdown(), gap, tables[1].markdown()])


def with_training(config: Config, **settings: Any) -> Config:
    """The configuration with other settings of training."""
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def sizes_of(config: Config, stride: int) -> dict[str, Any]:
    """Patches, tokens, parameters and operations of the configuration's model with another stride."""
    encoder = config.encoder.model_copy(update={"freq_stride": stride, "time_stride": stride})
    with torch.device("meta"):
        tagger = make_tagger(config.model_copy(update={"encoder": encoder}))
    body = tagger.encoder
    rows, columns = patch_grid(body.num_mel_bins, body.input_frames, encoder.patch_size, stride, stride)
    return {
        "stride": stride,
        "grid": [rows, columns],
        "tokens": NUM_SUMMARY_TOKENS + rows * columns,
        "parameters": count_parameters(tagger),
        "training_flops": training_flops(tagger, (1, body.input_frames, body.num_mel_bins)),
    }


def make_tagger(config: Config) -> Tagger:
    """A tagger with made-up classes, whose LayerNorms have one eps, as those of `transformers` must."""
    eps = config.encoder.block_norm_eps
    encoder = config.encoder.model_copy(update={"final_norm_eps": eps, "head_norm_eps": eps})
    features = config.features.model_copy(update={"normalization": "none"})
    labels = LabelTable([Label(i, f"/c/{i}", f"class {i}") for i in range(DEFAULT_CLASSES)])
    return build_tagger(features.model_dump(), encoder.model_dump(), labels)


def make_pair(config: Config, device: torch.device) -> tuple[Tagger, Twin]:
    """Ours and theirs with the same weights, compiled where the configuration says so."""
    torch.manual_seed(config.seed)
    tagger = make_tagger(config)
    twin = build_twin(tagger, config.encoder)
    tagger, twin = tagger.to(device), twin.to(device)
    accelerate(tagger, compile=config.training.compile)
    if config.training.compile != "off":
        twin.compile()
    return tagger, twin


def make_batch(tagger: Tagger, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random features (B,T,F), their lengths (B,), and targets (B,C)."""
    torch.manual_seed(1)
    frames, bins = tagger.encoder.input_frames, tagger.encoder.num_mel_bins
    features = 0.5 * torch.randn(size, frames, bins, device=device)
    targets = (torch.rand(size, len(tagger.labels), device=device) < 0.01).float()
    return features, torch.full((size,), frames, device=device), targets


def compare_logits(config: Config, device: torch.device, batch_size: int) -> float:
    """The largest difference of ours and theirs in float32; an error where they are not the same model."""
    allow_tf32(False)
    tagger, twin = make_pair(with_training(config, compile="off"), device)
    features, lengths, _ = make_batch(tagger, batch_size, device)
    with torch.no_grad():
        ours, theirs = tagger.eval()(features, lengths), twin.eval()(features, lengths)
    allow_tf32(config.training.tf32)
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(theirs.abs().max())):
        raise TrainingError(
            f"the logits of the two models differ by up to {difference:.2g} (allowed: {TOLERANCE:g} of the "
            "largest): they are not the same model, and their speeds not to be compared"
        )
    return difference


def measure(
    config: Config, device: torch.device, batch_size: int, kind: str, watch: Stopwatch
) -> dict[str, Any]:
    """Clips/s of both in turn, their memory, and shares of the device's peak where that is known."""
    tagger, twin = make_pair(config, device)
    batch = make_batch(tagger, batch_size, device)
    work = []
    for model in (tagger, twin):
        steps = make_steps(model, config, device)
        work.append(lambda steps=steps: do_step(steps, kind, batch))
    rates = take_turns(*work, watch)
    flops = training_flops(tagger, (1, *batch[0].shape[1:]))
    peak = peak_flops(device, config.training.amp, config.training.peak_tflops)
    shares = {
        who: rates[who]["median"] * flops / peak if peak and kind == "train" else None
        for who in ("ours", "theirs")
    }
    del tagger, twin, work
    if device.type == "cuda":
        torch.cuda.empty_cache()
    memory = None
    # What a process on a CPU holds while it compiles is more than what it needs afterwards.
    if device.type == "cuda" or config.training.compile == "off":
        memory = {
            who: in_fresh_process(peak_memory, config, str(device), batch_size, kind, who)
            for who in ("ours", "theirs")
        }
    return {**rates, "mfu": shares, "memory_mib": memory}


def take_turns(ours: Work, theirs: Work, watch: Stopwatch) -> dict[str, Spread | None]:
    """Clips/s of both and their ratio by rounds, and on a CPU the ratio of clips per second of processors."""
    ours()
    theirs()
    rounds = []
    for index in range(watch.rounds):
        # Who goes first alternates, so that a machine that slows down favours neither.
        order = (ours, theirs) if index % 2 == 0 else (theirs, ours)
        costs = {}
        for work in order:
            start_s = time.process_time()
            rate = watch.time_round(work)
            costs[work] = rate, time.process_time() - start_s
        rounds.append((*costs[ours], *costs[theirs]))
    our_rates, our_cpu_s, their_rates, their_cpu_s = (list(column) for column in zip(*rounds, strict=True))

    def ratio(above: list[float], below: list[float]) -> Spread:
        return spread([a / b for a, b in zip(above, below, strict=True)])

    return {
        "ours": spread(our_rates),
        "theirs": spread(their_rates),
        "ratio": ratio(our_rates, their_rates),
        "cpu_ratio": ratio(their_cpu_s, our_cpu_s) if watch.device.type == "cpu" else None,
    }


def make_steps(model: Tagger | Twin, config: Config, device: torch.device) -> Steps:
    """What makes evaluation's and training's steps with a model."""
    return Steps(model, config, World(rank=0, local_rank=0, size=1, device=device), DEFAULT_CLASSES)


def do_step(steps: Steps, kind: str, batch: tuple[Tensor, Tensor, Tensor]) -> int:
    """One step of a kind; returns the number of clips."""
    return steps.forward(*batch[:2]) if kind == "forward" else steps.train(*batch)


def peak_memory(config: Config, device_name: str, batch_size: int, kind: str, who: str) -> float:
    """The peak of memory in MiB of this process, whose one work are two steps of one of the two models."""
    device = torch.device(device_name)
    allow_tf32(config.training.tf32)
    import transformers  # noqa: F401 (itself memory, which both shall have)

    with torch.device("meta"):
        model = make_tagger(config)
    batch = make_batch(model, batch_size, device)
    model = make_tagger(config) if who == "ours" else fresh_twin(model, config.encoder)
    model = model.to(device)
    if config.training.compile != "off":
        model.compile()
    memory = PeakMemory(device)
    memory.reset()
    steps = make_steps(model, config, device)
    for _ in range(2):
        do_step(steps, kind, batch)
    return memory.read_mib()


def sizes_table(rows: list[dict[str, Any]]) -> Table:
    """A line for each stride."""
    columns = ["patches", "tokens", "parameters", "GFLOP of a training step and clip"]
    table = Table(["stride", *columns], [], frozenset(columns))
    for row in rows:
        high, wide = row["grid"]
        table.rows.append(
            [
                str(row["stride"]),
                f"{high} x {wide}",
                f"{row['tokens']:,}",
                f"{row['parameters']:,}",
                f"{row['training_flops'] / 1e9:,.3g}",
            ]
        )
    return table


def speed_table(rows: list[dict[str, Any]]) -> Table:
    """A line for each precision, with and without compilation, forward and training."""
    on_cpu, known = any(row["cpu_ratio"] for row in rows), any(row["mfu"]["ours"] for row in rows)
    columns = ["ours, clips/s", "transformers, clips/s", "ratio"]
    columns += ["ratio by processor time"] if on_cpu else []
    columns += ["peak MiB, ours", "peak MiB, transformers"]
    columns += ["MFU, ours", "MFU, transformers"] if known else []
    table = Table(["what", "precision", *columns], [], frozenset(columns))
    for row in rows:
        compiled = "eager" if row["compile"] == "off" else "compiled"
        cells = [
            f"{KINDS[row['kind']]}, {compiled}",
            "float32" if row["amp"] == "off" else row["amp"],
            shown(row["ours"]),
            shown(row["theirs"]),
            shown(row["ratio"]),
            *([shown(row["cpu_ratio"])] if on_cpu else []),
            *(number(row["memory_mib"] and row["memory_mib"][who], 0) for who in ("ours", "theirs")),
        ]
        if known:
            shares = (row["mfu"][who] for who in ("ours", "theirs"))
            cells += [f"{100 * share:.1f} %" if share else "-" for share in shares]
        table.rows.append(cells)
    return table


def shown(values: Spread) -> str:
    """Median, lowest and highest to three digits."""
    median, low, high = (
        f"{values[key]:,.0f}" if values[key] >= 100 else f"{values[key]:.3g}"
        for key in ("median", "lowest", "highest")
    )
    return f"{median} ({low} to {high})"
