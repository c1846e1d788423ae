"""Seconds of one update of an optimiser, on a model's shapes with made-up gradients, beside fused AdamW's.

The two take turns, so that a machine that others use as well slows down both.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from audiotag.benchmarks.processes import machine
from audiotag.commandline import add_config_arguments, config_from_args, positive
from audiotag.config import Config
from audiotag.distributed import choose_device
from audiotag.labels import Label, LabelTable
from audiotag.optim.optimizers import build_optimizer
from audiotag.stopwatch import spread
from audiotag.tagger import build_tagger

CLASSES = 527
WARM_UP = 4  # states are made, and every kind of update of ScaledAdam comes once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_config_arguments(parser, required=False)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    parser.add_argument(
        "--shapes",
        type=Path,
        metavar="FILE",
        help="JSON with `parameters`: a list of [name, shape], in place of the config's model",
    )
    parser.add_argument("--updates", type=positive, default=12, help="updates of each that are measured")


def run(args: argparse.Namespace) -> str:
    """Measure, and give the figures as a Markdown table."""
    config, device = config_from_args(args), choose_device(args.device)
    model = (read_shapes(args.shapes) if args.shapes else tagger_of(config)).to(device)
    sections = {
        config.optimizer.name: config.optimizer.model_dump(),
        "adamw": Config().optimizer.model_dump(),
    }
    optimizers = {name: build_optimizer(section, model) for name, section in sections.items()}
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator, device=device)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(WARM_UP + args.updates):
        for name, optimizer in optimizers.items():
            taken = timed_step(optimizer, device)
            if number >= WARM_UP:
                seconds[name].append(taken)
    total = sum(parameter.numel() for parameter in model.parameters())
    head = [
        f"{total:,} parameters in {len(list(model.parameters()))} tensors, {torch.get_num_threads()} threads "
        f"on {device}, {machine()}; median (lowest to highest)",
        "",
        "| optimiser | ms |",
        "|---|---|",
    ]
    figures = {name: spread([1000 * one for one in taken]) for name, taken in seconds.items()}
    return "\n".join(
        [
            *head,
            *(
                f"| {name} | {one['median']:.1f} ({one['lowest']:.1f} to {one['highest']:.1f}) |"
                for name, one in figures.items()
            ),
        ]
    )


def timed_step(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Seconds of one update."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    optimizer.step()
    wait()
    return time.perf_counter() - start


def tagger_of(config: Config) -> nn.Module:
    """The config's model, for AudioSet's number of classes."""
    labels = LabelTable([Label(i, f"/c/{i}", f"class {i}") for i in range(CLASSES)])
    section = config.model_dump(mode="json")
    return build_tagger(section["features"], section["encoder"], labels)


def read_shapes(path: Path) -> nn.Module:
    """Parameters of the listed shapes; their names do not matter here."""
    shapes = [shape for _, shape in json.loads(path.read_text())["parameters"]]
    return nn.ParameterList(nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes)
