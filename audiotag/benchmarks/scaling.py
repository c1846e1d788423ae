"""How training scales from one process to several on this machine, under the launcher that runs use."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from audiotag.errors import DataError

CLIPS_PER_S = re.compile(r"([\d.]+) clips/s")


def measure_processes(args: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    """Clips/s of runs of one and of several processes with a thread each, as their log lines tell."""
    rates = {count: clips_per_s(args, folder / f"of_{count}", count) for count in (1, args.processes)}
    one, several = rates[1], rates[args.processes]
    title = f"one thread each: 1 process, {args.processes} processes, clips/s"
    share = 100 * several / (args.processes * one)
    return [(title, f"{one:.0f}, {several:.0f}: {share:.0f} % of {args.processes} times one")]


def clips_per_s(args: argparse.Namespace, exp_dir: Path, processes: int) -> float:
    """The median over the log lines of a short run under torchrun, without the first."""
    settings = [
        *args.overrides,
        "training.epochs=3",
        "evaluation.avg=1",
        "training.log_every=5",
        "training.validate_every_epochs=3",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "audiotag.bin.train", "--config", args.config, "--data-dir", str(args.data_dir)]
    command += ["--exp-dir", str(exp_dir), "--device", args.device, "--restart"]
    done = subprocess.run(
        [*command, *(word for setting in settings for word in ("--set", setting))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    rates = [float(rate) for rate in CLIPS_PER_S.findall(done.stdout + done.stderr)]
    if done.returncode:
        raise DataError(f"the run of {processes} processes failed: {done.stderr[-500:]}")
    if len(rates) < 2:
        raise DataError(
            f"the run of {processes} processes wrote {len(rates)} log lines, and two are needed: there "
            "are too few clips for 10 updates in 3 epochs"
        )
    return statistics.median(rates[1:])
