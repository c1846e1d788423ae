"""Options of --launcher slurm and the scripts that it would submit; no Slurm is needed for a dry run."""

from __future__ import annotations

import pytest
from clone import lines_with

CHAIN = ("--launcher", "slurm", "--dry-run", "--stop-stage", "7")


def scripts(output: str) -> dict[str, list[str]]:
    """The lines of each script by its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in output.splitlines():
        if line == "#!/usr/bin/env bash":
            found[name] = []
        elif line.startswith(("# stage", "# folds", "# table")):
            name = line.removeprefix("# ").partition(",")[0]
        elif name in found and line:
            found[name].append(line)
    return found


def test_a_dry_run_prints_the_chain(tree, drive):
    sizes = ("--nj", "3", "--num-nodes", "2", "--ngpu", "4")
    (tree / "egs/mini/conf/slurm.yaml").write_text("setup: ['true']\nstages: {train: {gpus: 1}}\n")
    done = drive(*CHAIN, *sizes, "--set", "training.epochs=5", "--tag", "t'x")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tree / "egs" / "mini" / "exp").exists()
    jobs = scripts(done.stdout)
    assert list(jobs) == [
        "stage0-corpus",
        "stage1-manifests-parts",
        "stage1-manifests",
        "stage2-features-parts",
        "stage2-features",
        "stage4-statistics",
        "stage5-train",
        "stage6-evaluate",
        "stage7-results",
    ]
    assert "# stage5-train, once stage4-statistics has succeeded" in done.stdout
    assert "# stage 3: noise: nothing to do: the config mixes no noise" in done.stdout
    assert "#SBATCH --array=1-3" in jobs["stage2-features-parts"]
    assert jobs["stage2-features-parts"][-1].endswith(' --part "$SLURM_ARRAY_TASK_ID/3"')
    train = jobs["stage5-train"]
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4", "#SBATCH --requeue"} < set(train)
    assert {"#SBATCH --open-mode=append", "#SBATCH --kill-on-invalid-dep=yes"} < set(train)
    assert "#SBATCH --job-name=mini-t_x-stage5-train" in train
    assert "export MINI_TRAIN_CLIPS=30" in train
    # Before the lines of `setup`, which may take their time.
    assert train.index("trap 'export AUDIOTAG_NOTICED=yes' USR1") < train.index("true")
    # Slurm reads no options behind the first command.
    options = [line.startswith("#SBATCH ") for line in train]
    assert options == sorted(options, reverse=True)
    assert "--stage 5 --stop-stage 5" in train[-1]
    assert "--set training.epochs=5" in train[-1]
    assert "--launcher" not in train[-1]
    assert "--nodes=2" not in "".join(jobs["stage6-evaluate"])


def test_only_training_gets_restart(drive):
    jobs = scripts(drive(*CHAIN, "--nj", "1", "--restart").stdout)
    assert [name for name, lines in jobs.items() if "--restart" in lines[-1]] == ["stage5-train"]
    assert "stage2-features-parts" not in jobs


def test_folds_are_one_array(drive):
    done = drive(*CHAIN, "--recipe", "esc50", "--set", "corpus.dir=/corpora/esc50", "--restart")
    jobs = scripts(done.stdout)
    assert list(jobs) == ["stage0-corpus", "folds", "table"]
    assert "#SBATCH --array=1-5" in jobs["folds"]
    assert "#SBATCH --gpus-per-node=1" in jobs["folds"]
    assert "--stage 1 --stop-stage 7" in jobs["folds"][-1]
    assert "--part" not in jobs["folds"][-1]
    assert "--restart" in jobs["folds"][-1]
    assert "--restart" not in jobs["table"][-1]
    one = scripts(drive(*CHAIN, "--recipe", "esc50", "--set", "corpus.dir=/x", "--fold", "2").stdout)
    assert "--fold 2" in one["stage5-train"][-1]
    assert "folds" not in one


def test_stages_that_are_done_are_not_submitted(drive):
    assert drive("--stop-stage", "0").returncode == 0
    done = drive(*CHAIN)
    assert "# stage 0: corpus: already done" in done.stdout
    assert "stage0-corpus" not in scripts(done.stdout)
    forced = drive(*CHAIN, "--force")
    assert "stage0-corpus" in scripts(forced.stdout)


def test_a_file_of_ones_own(tree, drive):
    (tree / "own.yaml").write_text("partition: gpu\nsetup: ['module load \"cuda 13\"']\n")
    train = scripts(drive(*CHAIN, "--slurm-conf", "own.yaml").stdout)["stage5-train"]
    assert "#SBATCH --partition=gpu" in train
    assert 'module load "cuda 13"' in train
    (tree / "egs" / "mini" / "conf" / "slurm.yaml").write_text("partition: recipes\n")
    assert "#SBATCH --partition=recipes" in scripts(drive(*CHAIN).stdout)["stage5-train"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--launcher", "pbs"), "--launcher pbs: expected local or slurm"),
        (("--wait",), "--wait goes with --launcher slurm"),
        (("--part", "4/3", "--stage", "2", "--stop-stage", "2"), "--part 4/3: expected I/N"),
        (("--part", "1/3"), "--part 1/3 is for stage 1 or 2 alone"),
        (("--slurm-conf", "absent.yaml", "--launcher", "slurm", "--dry-run"), "absent.yaml"),
        (("--check", "--launcher", "slurm"), "leave --launcher slurm out"),
        (("--check", "--dry-run"), "leave --dry-run out"),
        (("--check", "--follow"), "leave --follow out"),
        (("--follow",), "nothing to follow: there is no log in"),
    ],
)
def test_what_cannot_be_is_refused(drive, arguments, message):
    done = drive(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert lines_with(done.stderr, message), done.stderr


def test_parts_and_then_the_stage(tree, drive):
    """What the jobs of an array do, and the one behind them."""
    assert drive("--stop-stage", "0").returncode == 0
    stage = ("--stage", "1", "--stop-stage", "1")
    for part in ("1/2", "2/2"):
        done = drive(*stage, "--part", part)
        assert done.returncode == 0, done.stderr
    data = tree / "egs" / "mini" / "data"
    assert not (data / "manifests" / ".done").exists()
    assert (data / "log" / "stage1.part2-of-2.log").exists()
    assert drive(*stage).returncode == 0
    assert (data / "manifests" / ".done").exists()
    assert "already done" in drive(*stage, "--part", "1/2").stdout


def test_one_process_under_torchrun_where_it_is_to_be_started_again(drive):
    printed = drive("--dry-run", "--ngpu", "0", "--max-restarts", "2").stdout
    line = lines_with(printed, "audiotag.bin.train")[0]
    assert "--nproc-per-node 1 --max-restarts 2" in line
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in line
