"""Tag audio files with a trained model: names and probabilities of the classes that are heard.

    python -m audiotag.bin.predict --model exp/ast_tiny/export clip.wav
    python -m audiotag.bin.predict --exp-dir exp/ast_tiny --best recordings/ --format csv --output tags.csv
    find . -name '*.flac' | python -m audiotag.bin.predict --model model/ --threshold 0.5 --format json -

Inputs are audio files of any format, rate and number of channels that libsndfile decodes, folders (with all
below them), or lists of both. Files longer than a window are heard in windows, which need no more memory the
longer a file is. Results go to standard output or --output, everything else to standard error. Files that
cannot be used are named at the end, and make the exit code 3; all others are tagged nevertheless.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from audiotag.atomic import atomic_write
from audiotag.commandline import make_parser, positive
from audiotag.distributed import choose_device
from audiotag.errors import ConfigError, DataError, run_command
from audiotag.evaluation.thresholds import read_thresholds
from audiotag.labels import LabelTable
from audiotag.logs import progress, set_up_logging
from audiotag.matrixproducts import allow_tf32
from audiotag.prediction.inputs import Input, find_inputs
from audiotag.prediction.model import add_model_arguments, open_model
from audiotag.prediction.predictor import Failure, Predictor
from audiotag.prediction.selection import DEFAULT_TOP_K, Selection
from audiotag.prediction.timeline import DEFAULT_CLASSES, TimelineFolder
from audiotag.prediction.writers import WRITERS, Writer, shown_path

logger = logging.getLogger("audiotag.predict")

EXIT_CLOSED_PIPE = 141  # what a shell reports of a program whose reader has gone


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    device = choose_device(args.device)
    # As in evaluation, whose `training.tf32` is true unless set.
    allow_tf32(args.tf32)
    model = open_model(args, device)
    labels = model.tagger.labels
    predictor = Predictor(
        model,
        device=device,
        amp=args.amp,
        window_s=args.window_s,
        hop_s=args.hop_s,
        window_mean=args.window_mean,
        batch_size=args.batch_size,
        keep_windows=args.timeline is not None,
    )
    selection = make_selection(args, labels)
    timelines = TimelineFolder(args.timeline, labels, args.timeline_classes) if args.timeline else None
    files = find_inputs(args.inputs, args.list)
    logger.info(
        "%d files, %d classes, windows of %g s every %g s",
        len(files),
        len(labels),
        predictor.window_s,
        predictor.hop_s,
    )
    with open_output(args.output) as file:
        failures = tag_files(files, predictor, selection, WRITERS[args.format](file), file, timelines)
    for failure in failures:
        print(f"not tagged: {shown_path(failure.input.path)}: {failure.reason}", file=sys.stderr)
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} files could not be tagged; they are listed above")


def tag_files(
    files: list[Input],
    predictor: Predictor,
    selection: Selection,
    write: Writer,
    file: IO[str],
    timelines: TimelineFolder | None,
) -> list[Failure]:
    """Write what is heard in each file; the files that could not be used."""
    failures = []
    for result in progress(predictor.predict(files), len(files), "tagging", unit="files"):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        write(result, selection.choose(result.logits))
        file.flush()
        if timelines is not None:
            timelines.write(result)
    return failures


def make_selection(args: argparse.Namespace, labels: LabelTable) -> Selection:
    """Which classes are named, by the options."""
    if args.thresholds is not None:
        return Selection(labels, args.top_k, read_thresholds(args.thresholds, labels).by_class)
    if args.threshold is not None:
        p = torch.tensor(args.threshold, dtype=torch.float64)
        return Selection(labels, args.top_k, p.logit().expand(len(labels)).numpy())
    return Selection(labels, args.top_k or DEFAULT_TOP_K)


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is there whole or not at all."""
    if path is not None:
        if path.is_dir():
            raise ConfigError(f"--output {path} is a folder; name a file")
        with atomic_write(path) as file:
            yield file
        return
    # Names of files may be no text; they come out as they went in.
    sys.stdout.reconfigure(errors="surrogateescape")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CLOSED_PIPE)


def probability(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to 1, found {text}")
    return number


def seconds(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text}")
    return number


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("predict", __doc__)
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="audio file or folder; - reads a list from standard input"
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="a text file with a file or folder in each line; may be repeated",
    )
    add_model_arguments(parser)
    shown = parser.add_argument_group("which classes are named")
    shown.add_argument(
        "--top-k",
        type=positive,
        metavar="K",
        help=f"the K likeliest (default: {DEFAULT_TOP_K}, or with a threshold any number)",
    )
    rule = shown.add_mutually_exclusive_group()
    rule.add_argument("--threshold", type=probability, metavar="P", help="those of at least this probability")
    rule.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="those that reach their own threshold: thresholds.json of an evaluation on valid",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=list(WRITERS), default="table", help="what is written")
    output.add_argument("--output", type=Path, metavar="FILE", help="write here, not to standard output")
    output.add_argument(
        "--timeline",
        type=Path,
        metavar="DIR",
        help="also write a CSV and a PNG for each file: what is heard in which window",
    )
    output.add_argument(
        "--timeline-classes",
        type=positive,
        default=DEFAULT_CLASSES,
        metavar="N",
        help="classes of a timeline: those with the highest probability in any window",
    )
    windows = parser.add_argument_group("long files")
    windows.add_argument(
        "--window-s",
        type=seconds,
        metavar="S",
        help="hear longer files in windows of this length (default: the model's own length where it has a "
        "fixed one, else 10)",
    )
    windows.add_argument(
        "--hop-s", type=seconds, metavar="S", help="from one window to the next (default: half a window)"
    )
    windows.add_argument(
        "--window-mean",
        choices=["probabilities", "logits", "max"],
        default="probabilities",
        help="how the windows of a file become one score: mean of probabilities or logits, or the largest",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument("--batch-size", type=positive, default=16, metavar="N", help="windows of a batch")
    speed.add_argument("--device", default="auto", help="cpu, cuda, or auto for a GPU where there is one")
    speed.add_argument(
        "--amp", choices=["off", "fp16", "bf16"], default="off", help="precision of the forward pass"
    )
    speed.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let a GPU round factors of matrix products in float32 to TF32, as training.tf32 does",
    )
    args = parser.parse_args()
    if not args.inputs and not args.list:
        parser.error("name audio files or folders, or a list of them with --list (- for standard input)")
    return args


if __name__ == "__main__":
    run_command(main)
