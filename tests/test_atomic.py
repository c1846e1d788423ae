"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiotag.atomic import atomic_write

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


def test_a_link_that_lies_under_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / f".a.txt.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("new")
    assert (tmp_path / "victim").read_text() == "dear"
    assert (tmp_path / "a.txt").read_text() == "new" and not (tmp_path / "a.txt").is_symlink()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.txt", "victim"]


def test_a_write_that_the_system_refuses_names_the_file_and_keeps_the_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = """
import resource, sys
from audiotag.atomic import atomic_write
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
