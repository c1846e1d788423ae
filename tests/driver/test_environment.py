"""Which Python the scripts take, what they refuse, and when .venv is made anew. No network is used."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv

import pytest
from clone import environment

STATE = "audiotag-setup"
# pip finds nothing, so that a set-up which starts must fail.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "AUDIOTAG_PYTHON": ""}
FIND_PYTHON = """
set -euo pipefail
ROOT=$1; shift
for part in log lock process environment; do source "$ROOT/local/$part.sh"; done
find_python "$@"
printf 'PYTHON=%s\\n' "$PYTHON"
"""


@pytest.fixture
def find_python(tree, tmp_path):
    """Call the shell function as the scripts do: `find_python("test", VIRTUAL_ENV=...)`."""
    # Without uv, which would find pythons of its own.
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").symlink_to(sys.executable)

    def call(*extras, **variables):
        env = environment(**{**OFFLINE, "PATH": f"{bare}:/usr/bin:/bin", **variables})
        return subprocess.run(
            ["bash", "-c", FIND_PYTHON, "-", str(tree), *extras],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def make_environment(folder, **options):
    """An environment without packages."""
    venv.EnvBuilder(symlinks=True, **options).create(folder)
    return folder


def state_of(tree, extras=""):
    """What a finished set-up of the present setup.py notes."""
    return f"{hashlib.sha256((tree / 'setup.py').read_bytes()).hexdigest()[:16]}\n{extras}\n"


def test_named_python_is_used_when_it_has_everything(find_python):
    done = find_python("test", AUDIOTAG_PYTHON=sys.executable)
    assert done.stdout == f"PYTHON={sys.executable}\n", done.stderr


def test_named_python_without_packages_is_refused_by_name_of_what_lacks(find_python, tree, tmp_path):
    empty = make_environment(tmp_path / "an env")
    done = find_python(AUDIOTAG_PYTHON=str(empty / "bin" / "python"))
    assert done.returncode == 2
    assert "lacks packaging: install into it, or unset AUDIOTAG_PYTHON" in done.stderr
    setup = tree / "setup.py"
    setup.write_text(setup.read_text().replace('"tqdm>=4.66"', '"tqdm>=999", "no-such-thing"'))
    done = find_python(AUDIOTAG_PYTHON=sys.executable)
    assert done.returncode == 2
    assert "lacks tqdm>=999 (found " in done.stderr and ", no-such-thing:" in done.stderr
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize("name", ["/nowhere/python", "no-such-program"])
def test_named_python_must_exist(find_python, name):
    done = find_python(AUDIOTAG_PYTHON=name)
    assert done.returncode == 2
    assert f"AUDIOTAG_PYTHON={name} is not a program" in done.stderr


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_active_environment_that_satisfies_is_used_as_it_is(find_python, tree, variable):
    done = find_python("test", **{variable: sys.prefix})
    assert f"PYTHON={sys.prefix}/bin/python\n" in done.stdout, done.stderr
    assert not (tree / ".venv").exists()


def test_active_environment_that_lacks_something_is_left_alone(find_python, tree, tmp_path):
    empty = make_environment(tmp_path / "empty")
    make_environment(tree / ".venv")
    (tree / ".venv" / STATE).write_text(state_of(tree))
    done = find_python(VIRTUAL_ENV=str(empty))
    assert f"the active environment {empty} lacks packaging: using {tree}/.venv" in done.stdout
    assert f"PYTHON={tree}/.venv/bin/python" in done.stdout


def test_finished_venv_is_taken_without_a_word(find_python, tree):
    make_environment(tree / ".venv")
    (tree / ".venv" / STATE).write_text(state_of(tree, "onnx,test"))
    for extras in ((), ("test",), ("onnx", "test")):
        done = find_python(*extras)
        assert done.stdout == f"PYTHON={tree}/.venv/bin/python\n", done.stderr


@pytest.mark.parametrize("change", ["setup.py", "extra"])
def test_changed_setup_or_new_extra_installs_again(find_python, tree, change):
    make_environment(tree / ".venv", with_pip=True)
    (tree / ".venv" / STATE).write_text(state_of(tree, "onnx"))
    (tree / ".venv" / "kept").touch()
    if change == "setup.py":
        (tree / "setup.py").write_text((tree / "setup.py").read_text() + "\n# changed\n")
        done = find_python()
    else:
        done = find_python("test")
    # Offline it must fail, say how, and be known as unfinished.
    assert done.returncode == 2
    assert "[set-up] installing audiotag[onnx" in done.stdout
    assert "the installation failed; whole log: " in done.stderr
    assert " -m pip install " in done.stderr
    assert "ERROR: No matching distribution found for setuptools" in done.stderr
    assert (tree / ".venv" / STATE).read_text().startswith("unfinished\nonnx")
    assert (tree / ".venv" / "kept").exists()


@pytest.mark.parametrize("damage", ["interrupted", "no python"])
def test_half_made_venv_is_made_again(find_python, tree, damage):
    make_environment(tree / ".venv")
    (tree / ".venv" / "leftover").touch()
    if damage == "interrupted":
        (tree / ".venv" / STATE).write_text("unfinished\n\n")
    else:
        (tree / ".venv" / STATE).write_text(state_of(tree))
        (tree / ".venv" / "bin" / "python").unlink()
    done = find_python()
    assert f"removing the unfinished or broken environment in {tree}/.venv" in done.stdout
    assert "making" in done.stdout
    assert not (tree / ".venv" / "leftover").exists()
    assert (tree / ".venv" / "bin" / "python").exists()


def test_a_folder_that_is_no_environment_is_not_deleted(find_python, tree):
    (tree / ".venv").mkdir()
    (tree / ".venv" / "thesis.tex").touch()
    done = find_python()
    assert done.returncode == 2
    assert "is not a Python environment: move it away" in done.stderr
    assert (tree / ".venv" / "thesis.tex").exists()


def test_old_python_gets_one_clear_line(find_python, tmp_path):
    fake = tmp_path / "old"
    fake.mkdir()
    names = ["python", "python3", *(f"python3.{minor}" for minor in range(10, 14))]
    for name in names:
        (fake / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.10\nexit 1\n')
        (fake / name).chmod(0o755)
    done = find_python(PATH=f"{fake}:/usr/bin:/bin")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert f"Python 3.10 or newer is needed, but {fake}/python3 is Python 3.8.10" in lines[0]


def test_second_process_waits_for_the_set_up_of_the_first(find_python, tree):
    make_environment(tree / ".venv")
    holder = subprocess.Popen(
        ["flock", str(tree / ".venv" / "setup.lock"), "sh", "-c", "echo locked; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    (tree / ".venv" / STATE).write_text("unfinished\n\n")
    waiting = subprocess.Popen(
        ["bash", "-c", FIND_PYTHON, "-", str(tree)],
        env=environment(**OFFLINE),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "waiting for another set-up" in waiting.stdout.readline()
    # The first finishes; the second must find that there is nothing left to do.
    (tree / ".venv" / STATE).write_text(state_of(tree))
    holder.communicate("\n")
    output, _ = waiting.communicate(timeout=30)
    assert output == f"PYTHON={tree}/.venv/bin/python\n"
