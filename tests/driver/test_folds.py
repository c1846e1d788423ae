"""Recipes with folds: all of them with one command, one of them, their GPUs, signals, failures, the table."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clone import copy_tree, environment, lines_with

from tests.corpora.publishedcorpora import make_esc50

QUICK = ("--set", "training.epochs=1", "--set", "evaluation.bootstrap=0", "--config", "conf/ast_tiny.yaml")
# A Python that waits, in its own way, in place of preparing manifests.
WAITING = """#!/bin/bash
case " $* " in
    *" audiotag.bin.prepare "*)
        {trap}
        echo $$ >"$PIDS/$$"
        while :; do sleep 0.1; done
        ;;
esac
exec {python} "$@"
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """ESC-50's layout with three classes, a clip of each in each fold twice."""
    return make_esc50(tmp_path_factory.mktemp("ESC 50"), categories=3, takes=1)


@pytest.fixture
def esc50(drive, corpus):
    """Call the driver on the recipe: `esc50("--fold", "2", env={...})`."""

    def call(*arguments, env=None):
        where = {"ESC50": str(corpus), **(env or {})}
        return drive("--recipe", "esc50", *arguments, env=where, timeout=400)

    return call


def two_folds(tree):
    """A recipe of two folds, for tests that really run."""
    script = tree / "egs/esc50/run.sh"
    script.write_text(script.read_text().replace("RECIPE_FOLDS=5", "RECIPE_FOLDS=2"))


def blocks(printed):
    """What a dry run prints for each fold, by its number."""
    parts = re.split(r"^# fold (\d) of 5", printed, flags=re.MULTILINE)
    return {int(fold): text for fold, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_a_dry_run_prints_the_commands_of_all_folds_and_of_the_table(tree, esc50):
    before = sorted(tree.rglob("*"))
    done = esc50("--dry-run", env={"AUDIOTAG_PYTHON": "/nowhere/python"})
    assert done.returncode == 0, done.stderr
    assert sorted(tree.rglob("*")) == before
    first, *_ = done.stdout.split("# fold 1 of 5")
    assert "# stage 0: corpus" in first and done.stdout.count("local/data.sh") == 1
    assert list(blocks(done.stdout)) == [1, 2, 3, 4, 5]
    for fold, text in blocks(done.stdout).items():
        assert re.findall(r"# stage (\d)", text) == list("12345678")
        assert (
            f"--set corpus.fold={fold} --data-dir data/fold{fold} --exp-dir exp/ast_base/fold{fold}" in text
        )
        assert {int(number) for number in re.findall(r"fold(\d)", text)} == {fold}
    assert done.stdout.endswith("-m audiotag.bin.crossvalidate --exp-dir exp/ast_base --folds 5\n")
    part = esc50("--dry-run", "--stage", "5", "--stop-stage", "6", "--tag", "other").stdout
    assert "local/data.sh" not in part and "crossvalidate" not in part and "exp/other/fold5" in part


@pytest.mark.parametrize("given", [{"SLURM_ARRAY_TASK_ID": "4"}, {}])
def test_one_fold_is_a_run_of_its_own(esc50, given):
    arguments = () if given else ("--fold", "4")
    done = esc50("--dry-run", *arguments, env=given)
    assert re.findall(r"# stage (\d)", done.stdout) == list("012345678"), done.stderr
    assert "--data-dir data/fold4 --exp-dir exp/ast_base/fold4" in done.stdout
    assert "crossvalidate" not in done.stdout
    # What is written wins.
    assert "exp/ast_base/fold2" in esc50("--dry-run", "--fold", "2", env=given).stdout


def test_a_copy_that_slurm_runs_finds_the_repository(tree, corpus, tmp_path):
    (tmp_path / "spool").mkdir()
    script = shutil.copy(tree / "run.sh", tmp_path / "spool" / "slurm_script")
    slurm = {"SLURM_SUBMIT_DIR": str(tree), "SLURM_ARRAY_TASK_ID": "5", "ESC50": str(corpus)}
    done = subprocess.run(
        ["bash", script, "--recipe", "esc50", "--dry-run"],
        env=environment(**slurm),
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert f"cd '{tree / 'egs' / 'esc50'}' && " in done.stdout and "exp/ast_base/fold5" in done.stdout, (
        done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["--recipe", "esc50", "--fold", "6"], {}, "--fold 6: recipe esc50 has the folds 1 to 5"),
        (["--recipe", "esc50", "--fold", "0"], {}, "--fold must be at least 1"),
        (
            ["--recipe", "esc50"],
            {"SLURM_ARRAY_TASK_ID": "0"},
            "SLURM_ARRAY_TASK_ID=0, which is taken for --fold",
        ),
        (["--recipe", "esc50", "--set", "corpus.fold=2"], {}, "the folds of esc50 are chosen with --fold N"),
        (["--recipe", "esc50", "--num-nodes", "2"], {}, "--num-nodes 2 trains one fold: add --fold N"),
        (["--fold", "1"], {}, "recipe mini has no folds: leave --fold and --fold-jobs out"),
        (["--fold-jobs", "2"], {}, "recipe mini has no folds"),
    ],
)
def test_mistakes_with_folds(drive, arguments, env, message):
    done = drive("--dry-run", *arguments, env=env)
    assert done.returncode == 2
    assert message in done.stderr and done.stdout == ""


def test_each_fold_has_gpus_of_its_own(esc50):
    def gpus(*arguments, visible="3,5,7,9"):
        done = esc50(
            "--dry-run",
            "--stage",
            "5",
            "--stop-stage",
            "5",
            *arguments,
            env={"CUDA_VISIBLE_DEVICES": visible},
        )
        assert done.returncode == 0, done.stderr
        return re.findall(
            r"^# fold \d of 5, with CUDA_VISIBLE_DEVICES=(.*)$", done.stdout, re.MULTILINE
        ), done.stdout

    assert gpus()[0] == ["3", "5", "7", "9", "3"]
    found, printed = gpus("--ngpu", "2")
    assert found == ["3,5", "7,9", "3,5", "7,9", "3,5"] and printed.count("--nproc-per-node 2") == 5
    assert gpus("--fold-jobs", "2")[0] == ["3", "5", "3", "5", "3"]
    found, printed = gpus("--fold-jobs", "3", visible="1")
    assert found == ["1"] * 5 and "folds will share some" in printed
    assert gpus("--ngpu", "0")[0] == []


@pytest.mark.slow
def test_the_tiny_config_over_all_folds_to_the_table_and_what_a_failure_leaves(tree, esc50):
    two_folds(tree)
    exp = tree / "egs/esc50/exp/ast_tiny"
    done = esc50(*QUICK, "--stop-stage", "7", "--fold-jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 folds, 2 at a time" in done.stdout and done.stdout.count("local/data.sh") == 0
    for fold in (1, 2):
        assert f"fold {fold}: " in done.stdout and f"[folds] fold {fold} finished" in done.stdout
        assert f"fold {fold} of 5 is eval" in (exp / f"log/fold{fold}.log").read_text()
        assert (exp / f"fold{fold}/RESULTS.md").is_file()
    table = done.stdout[done.stdout.rindex("split  weights") :]
    assert "epoch 1, the best on average (selected on the test folds)" in table
    assert "epoch 1, the last (no selection)" in table and "stage 6: epoch1" in table
    assert "Selected on the test folds" in (exp / "RESULTS.md").read_text()
    values = json.loads((exp / "crossvalidation.json").read_text())["lines"][0]["values"]
    in_folds = [
        json.loads((exp / f"fold{fold}/eval_eval_epoch1/metrics.json").read_text())["metrics"]["accuracy"]
        for fold in (1, 2)
    ]
    assert values == pytest.approx(in_folds)

    again = esc50(*QUICK, "--stage", "7", "--stop-stage", "7")
    assert again.returncode == 0 and "fold 2: " in again.stdout
    assert again.stdout.count("[stage 7: results] already done") == 2
    assert "stage 6: epoch1" in again.stdout

    (exp / "fold1/epoch-1.pt").write_bytes(b"")
    (tree / "egs/esc50/data/fold2/manifests/labels.csv").unlink()
    failed = esc50(*QUICK, "--stage", "1", "--stop-stage", "7")
    assert failed.returncode == 4, failed.stdout + failed.stderr
    assert "FAILED: 1 of 2 folds:" in failed.stderr
    assert f"fold 1 (exit code 4, log {exp}/log/fold1.log)" in failed.stderr
    assert "[folds] fold 2 finished" in failed.stdout
    assert "[stage 1: manifests] started" in lines_with(failed.stdout, "fold 2: ")[0]
    assert "crossvalidate" not in failed.stdout


class Running:
    """The driver with two folds that wait in stage 1, a third to come."""

    def __init__(self, tree: Path, corpus: Path, folder: Path, trap: str) -> None:
        self.pids = folder / "pids"
        self.pids.mkdir()
        python = folder / "python"
        python.write_text(WAITING.format(trap=trap, python=shlex.quote(sys.executable)))
        python.chmod(0o755)
        self.driver = subprocess.Popen(
            [
                "bash",
                str(tree / "run.sh"),
                "--recipe",
                "esc50",
                "--fold-jobs",
                "2",
                "--config",
                "conf/ast_tiny.yaml",
            ],
            env=environment(ESC50=str(corpus), AUDIOTAG_PYTHON=str(python), PIDS=str(self.pids)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.wait_for(lambda: len(self.workers()) == 2)

    def workers(self) -> list[int]:
        return [int(path.name) for path in self.pids.iterdir()]

    def wait_for(self, condition, seconds=40.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end and self.driver.poll() is None, "timed out, or the driver has ended"
            time.sleep(0.05)

    def alive(self) -> list[int]:
        return [pid for pid in self.workers() if is_alive(pid)]

    def close(self) -> None:
        self.driver.kill()
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def running(tmp_path, corpus):
    """Start a driver whose waiting programs answer signals with a shell command."""
    started = []

    def start(trap: str = "") -> Running:
        started.append(Running(copy_tree(tmp_path / "a clone"), corpus, tmp_path, trap))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(
    ("number", "trap", "code", "word"),
    [
        (signal.SIGTERM, "", 143, "stopped"),
        (signal.SIGINT, "", 130, "stopped"),
        # A training that has saved its state.
        (signal.SIGUSR1, "trap 'exit 75' USR1", 75, "stopped and saved; the same command goes on"),
    ],
)
def test_a_signal_reaches_all_folds_and_starts_no_further_one(running, number, trap, code, word):
    run = running(trap)
    os.kill(run.driver.pid, number)
    output, _ = run.driver.communicate(timeout=20)
    assert run.driver.returncode == code, output
    assert word in output.splitlines()[-1] and "fold 3 started" not in output
    assert len(run.workers()) == 2 and not run.alive()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_a_signal_that_comes_twice_kills_no_training(running):
    run = running("trap 'sleep 3; echo saved >$PIDS/../saved-$$; exit 75' TERM")
    # A scheduler tells all processes of a job, so the folds' drivers get it twice.
    folds = children_of(run.driver.pid)
    for pid in (*folds, run.driver.pid, *folds):
        os.kill(pid, signal.SIGTERM)
    output, _ = run.driver.communicate(timeout=20)
    assert run.driver.returncode == 75, output
    assert len(list(run.pids.parent.glob("saved-*"))) == 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_a_second_signal_of_a_person_kills_at_once(running):
    run = running("trap '' TERM INT")
    os.kill(run.driver.pid, signal.SIGINT)
    time.sleep(1.0)
    assert run.driver.poll() is None and len(run.alive()) == 2
    os.kill(run.driver.pid, signal.SIGINT)
    output, _ = run.driver.communicate(timeout=10)
    assert run.driver.returncode == 130, output
    assert not run.alive()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(parent: int) -> list[int]:
    """The drivers of the folds."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"--fold\0" in command:
            found.append(int(stat.parent.name))
    return found
