"""Measure how long the metrics of an evaluation take, beside scikit-learn's AP and AUC, on one core.

Scores are generated, with labels as rare as AudioSet's. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from audiotag.commandline import make_parser, positive
from audiotag.errors import run_command
from audiotag.evaluation.bootstrap import resample
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.ranking import ap_and_auc
from audiotag.evaluation.resampling import Resampled
from audiotag.evaluation.tables import Table
from audiotag.logs import set_up_logging
from audiotag.processors import num_processors, one_core


def main() -> None:
    args = parse_arguments()
    set_up_logging(verbose=args.verbose)
    logits, labels = generate(args.clips, args.classes, args.labels_per_clip, args.seed)
    print(measure(logits, labels, args).markdown())


def generate(clips: int, classes: int, labels_per_clip: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,C) in float32 and labels (N,C) of a middling tagger; every class has a positive."""
    random = np.random.default_rng(seed)
    frequency = random.pareto(1.0, classes) + 0.1
    labels = random.random((clips, classes)) < frequency / frequency.sum() * labels_per_clip
    labels[random.integers(clips, size=classes), np.arange(classes)] = True
    logits = 1.5 * random.standard_normal((clips, classes)) - 5.0 + 3.0 * labels
    return logits.astype(np.float32), labels.astype(np.uint8)


def measure(logits: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> Table:
    """A line per task with its shortest times; all but the resamplings run on one processor."""
    table = Table(["task", "s", "CPU s"], [], frozenset({"s", "CPU s"}))

    def add(task: str, work: Callable[[], object], repeats: int) -> None:
        times = zip(*(timed(work) for _ in range(repeats)), strict=True)
        table.rows.append([task, *(f"{min(seconds):.2f}" for seconds in times)])

    positive = labels.astype(bool)
    with one_core():
        add("all metrics", lambda: compute_metrics(logits, labels), args.repeats)
        add(
            "AP and AUC alone",
            lambda: [ap_and_auc(logits[:, index], positive[:, index]) for index in range(labels.shape[1])],
            args.repeats,
        )
        add("scikit-learn: AP and AUC", lambda: scikit_learn(logits, labels), args.repeats)
    if args.bootstrap:
        add(
            f"intervals of {args.bootstrap:,} resamplings, {args.threads} threads",
            lambda: resample([Resampled(logits, labels)], len(logits), args.bootstrap, threads=args.threads),
            1,
        )
    return table


def scikit_learn(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AUC of every class as scikit-learn computes them."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return (
        average_precision_score(labels, logits, average=None),
        roc_auc_score(labels, logits, average=None),
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it took, and seconds of processors, which other programs do not lengthen."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("benchmark_metrics", __doc__)
    parser.add_argument("--clips", type=positive, default=20000, help="clips")
    parser.add_argument("--classes", type=positive, default=527, help="classes")
    parser.add_argument("--labels-per-clip", type=float, default=2.0, help="labels of a clip on average")
    parser.add_argument("--repeats", type=positive, default=3, help="the shortest of so many times counts")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamplings; 0 leaves them out")
    parser.add_argument(
        "--threads", type=positive, default=num_processors(), help="threads of the resamplings"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated scores")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
