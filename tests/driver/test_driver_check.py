"""./run.sh --check, and who is named where a lock is held."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from clone import environment


def files(tree):
    return sorted(path for path in tree.rglob("*") if "__pycache__" not in path.parts)


def test_a_look_before_the_first_stage_changes_nothing(drive, tree, tmp_path):
    before = files(tree / "egs")
    done = drive("--check", env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search(r"^fail +corpus .* is not there: run stage 0", done.stdout, re.MULTILINE)
    assert "1 failed" in done.stdout
    assert files(tree / "egs") == before


@pytest.mark.slow
def test_a_look_by_two_processes_has_the_exit_code_of_what_it_found(drive, tree):
    done = drive("--check", "--ngpu", "2")
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search(r"^ok +processes +all 2 add up a tensor by gloo", done.stdout, re.MULTILINE)
    assert "Root Cause" not in done.stdout + done.stderr and "torch/distributed" not in done.stdout
    assert drive("--check", "--set", "training.epoch=3").returncode == 2


def test_a_look_whose_process_dies_says_so(drive, tmp_path):
    # Python runs this before all else: the second process crashes as a faulty driver would have it crash.
    crash = "import os\nif os.environ.get('RANK') == '1':\n    os.kill(os.getpid(), 11)\n"
    (tmp_path / "sitecustomize.py").write_text(crash)
    done = drive("--check", "--ngpu", "2", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 139, done.stdout + done.stderr
    assert "a process ended before it could say what it found (exit code 139):" in done.stderr
    assert re.search(r"^    \| +exitcode +: -11 ", done.stderr, re.MULTILINE)


def test_a_look_is_at_one_fold_and_at_this_machine(drive, tmp_path):
    done = drive("--recipe", "esc50", "--check", env={"ESC50": str(tmp_path)})
    assert done.returncode == 2 and "--check looks at one of the 5 folds: add --fold 1" in done.stderr
    done = drive("--check", "--launcher", "slurm")
    assert done.returncode == 2 and "leave --launcher slurm out" in done.stderr


def test_a_look_is_at_the_noise_that_db_sh_names(drive, tmp_path):
    where = {"MYDATA": str(tmp_path), "MUSAN": str(tmp_path / "away")}
    done = drive("--recipe", "mydata", "--check", "--set", "augment.noise.probability=0.5", env=where)
    text = " ".join(done.stdout.split())
    assert done.returncode == 3 and f"fail noise {tmp_path}/away: none of the folders" in text, done.stdout


LOCKING = """
source local/log.sh; source local/lock.sh
LOCK_BASE=$1
try_lock || { printf 'held%s\\n' "$(lock_holder)"; exit 1; }
printf 'mine\\n'
read -r _ || true
"""


def lock(tree, base, **changes):
    """A shell that takes a lock and keeps it until its input ends."""
    return subprocess.Popen(
        ["bash", "-c", LOCKING, "bash", str(base)],
        cwd=tree,
        env=environment(**changes),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def check_lock(tree, base, **changes):
    first = lock(tree, base, SLURM_JOB_ID="815", **changes)
    try:
        assert first.stdout.readline() == "mine\n"
        told = lock(tree, base, **changes).communicate(timeout=30)[0]
        expected = rf"held \(process {first.pid} on {os.uname().nodename}, job 815, since \d{{4}}-.*\)\n"
        assert re.fullmatch(expected, told), told
    finally:
        first.kill()
        first.wait()
    # Killed, it has left its name, and the lock is free all the same.
    for _ in range(3):
        told = lock(tree, base, **changes).communicate(timeout=30)[0]
        if told == "mine\n":
            return
    raise AssertionError(told)


@pytest.fixture
def without_flock(tmp_path):
    """A folder of programs as a small system has them."""
    return make_tools(tmp_path / "tools")


def make_tools(folder):
    folder.mkdir()
    for name in ("bash", "date", "mkdir", "rm", "uname"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_a_lock_names_its_holder(tree, tmp_path):
    check_lock(tree, tmp_path / ".lock")


def test_a_lock_names_its_holder_also_without_flock(tree, tmp_path, without_flock):
    check_lock(tree, tmp_path / ".lock", PATH=str(without_flock))


def test_a_lock_of_another_machine_is_left_alone_without_flock(tree, tmp_path, without_flock):
    folder = tmp_path / ".lock.d"
    folder.mkdir()
    (folder / "holder").write_text("process 99999999 on node7, since 2026-01-01 00:00:00\n")
    told = lock(tree, tmp_path / ".lock", PATH=str(without_flock)).communicate(timeout=30)[0]
    assert told == "held (process 99999999 on node7, since 2026-01-01 00:00:00)\n"
    assert folder.exists()


@pytest.mark.parametrize("flock", [True, False])
def test_a_lock_that_cannot_be_made_is_not_waited_for(tree, flock):
    """By somebody to whom root's folder is closed, or the lock that root has made."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copytree(tree / "local", place / "local")
        tools = make_tools(place / "tools")
        (place / ".lock").touch(0o644)
        place.chmod(0o777 if flock else 0o755)
        if os.geteuid() != 0:
            (place / ".lock").chmod(0o444)
            place.chmod(0o777 if flock else 0o555)
        done = subprocess.run(
            [
                "bash",
                "-c",
                'source local/log.sh; source local/lock.sh; take_lock "$1" "another run"',
                "-",
                f"{place}/.lock",
            ],
            cwd=place,
            env=environment(**({} if flock else {"PATH": str(tools)})),
            capture_output=True,
            text=True,
            timeout=20,
            **({"user": 65534} if os.geteuid() == 0 else {}),
        )
        place.chmod(0o755)
    assert done.returncode == 6, done.stdout + done.stderr
    assert re.fullmatch(
        rf"\S+ \S+ \[run\] error: cannot write the lock {name}/.lock: check .*\n", done.stderr
    ), done.stderr
