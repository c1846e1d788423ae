"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from audiotag.atomic import atomic_write, replace_together

ROOT = Path(__file__).resolve().parents[1]


def test_a_failed_write_leaves_the_old_file_and_no_fragment(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write("old")

    def interrupted():
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_is_readable_as_the_umask_says_and_line_ends_are_kept(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "deep" / "a.csv") as file:
            file.write("a\r\nb\n")
    finally:
        os.umask(old)
    path = tmp_path / "deep" / "a.csv"
    assert path.read_bytes() == b"a\r\nb\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_that_lies_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("dear")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "77")
    (tmp_path / ".a.txt.77.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "a.txt") as file:
        file.write("new")
    assert (tmp_path / "victim").read_text() == "dear"
    assert not (tmp_path / "a.txt").exists()


def test_two_that_write_one_file_at_once_do_not_mix(tmp_path):
    """Processes of two machines may have one number, as the same process stands for them here."""
    path = tmp_path / "a.txt"
    with atomic_write(path) as slow:
        slow.write("slow ")
        with atomic_write(path) as fast:
            fast.write("fast")
        assert path.read_text() == "fast"
        slow.write("and whole")
    assert path.read_text() == "slow and whole"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_the_system_refuses_names_the_file_and_keeps_the_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = """
import resource, sys
from audiotag.atomic import atomic_write, replace_together
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(sys.argv[1]) as file:
        file.write("x" * 5000)
except OSError as error:
    print(error.filename)
"""
    path = str(tmp_path / "a.txt")
    done = subprocess.run([sys.executable, "-B", "-c", code, path], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == path + "\n"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_set(folder: Path, text: str, *names: str) -> None:
    with replace_together(folder, sign="sign", outdated=["once"]) as new:
        for name in names:
            with atomic_write(new / name) as file:
                file.write(text)


def test_files_that_belong_together_are_replaced_together(tmp_path):
    write_set(tmp_path, "old", "a", "once", "sign")
    (tmp_path / "mine").write_text("kept")
    first = contents(tmp_path)
    assert first == {"a": "old", "once": "old", "sign": "old", "mine": "kept"}

    def interrupted():
        with replace_together(tmp_path, sign="sign") as new:
            (new / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == first
    write_set(tmp_path, "new", "a", "sign")
    assert contents(tmp_path) == {"a": "new", "sign": "new", "mine": "kept"}


def test_whoever_is_stopped_at_any_moment_leaves_the_old_set_or_the_new_one_or_no_sign(tmp_path, monkeypatch):
    write_set(tmp_path, "old", "a", "b", "sign")
    steps = {"left": 0}

    def counted(function):
        def step(*arguments, **options):
            steps["left"] -= 1
            if steps["left"] < 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return step

    for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    found = []
    for number in range(100):
        steps["left"] = 10**6
        write_set(tmp_path, "old", "a", "b", "sign")
        steps["left"] = number
        try:
            write_set(tmp_path, "new", "a", "b", "sign")
        except KeyboardInterrupt:
            found.append(contents(tmp_path))
        else:
            break
    assert all(len({*one.values()}) == 1 for one in found if "sign" in one)
    assert any("sign" not in one for one in found) and len(found) > 10


def test_an_error_names_the_file_as_it_was_to_be_called(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replace_together(tmp_path, sign="sign") as new:
        (new / "a" / "b").write_text("nowhere")
    assert caught.value.filename == str(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
