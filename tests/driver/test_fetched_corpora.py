"""Stage 0 of the recipes whose corpora are one archive on the web; Speech Commands from files to results."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from clone import lines_with

from tests.corpora.publishedcorpora import make_esc50, make_speechcommands

NAMES = {"esc50": "ESC50", "speechcommands": "SPEECHCOMMANDS"}
QUICK = ("--set", "training.epochs=1", "--set", "evaluation.bootstrap=0", "--set", "data.num_workers=0")


@pytest.fixture
def archives(tmp_path):
    """Both corpora packed as their makers do: one folder that holds all, and everything at the top."""
    made = make_esc50(tmp_path / "ESC-50-master", categories=2, sources=1, takes=1)
    zipped = shutil.make_archive(tmp_path / "esc50", "zip", made.parent, made.name)
    words = make_speechcommands(tmp_path / "words", words=("no", "yes"), speakers=3)
    packed = shutil.make_archive(tmp_path / "words", "gztar", words, ".")
    return {"esc50": zipped, "speechcommands": packed}


def fetch(drive, recipe, folder, url):
    """Run stage 0 with the corpus in a folder and its archive at an address."""
    name = NAMES[recipe]
    env = {name: str(folder), f"{name}_URL": url}
    return drive("--recipe", recipe, "--stop-stage", "0", env=env)


@pytest.mark.parametrize("recipe", NAMES)
def test_an_empty_folder_is_filled_and_a_filled_one_left_alone(drive, archives, recipe, tmp_path):
    folder = tmp_path / "a corpus"
    folder.mkdir()
    (folder / ".fetched").mkdir()  # of an earlier one that was killed
    (folder / ".fetched" / "archive").write_bytes(b"half")
    done = fetch(drive, recipe, folder, f"file://{archives[recipe]}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.name for path in folder.iterdir()}
    if recipe == "esc50":
        assert found == {"meta", "audio"} and len(list((folder / "audio").iterdir())) == 10
    else:
        assert {"no", "yes", "testing_list.txt", "validation_list.txt"} <= found and ".fetched" not in found
    again = fetch(drive, recipe, folder, "file:///nowhere")
    assert again.returncode == 0 and not lines_with(again.stdout, "fetching")


@pytest.mark.parametrize("recipe", NAMES)
def test_what_is_no_archive_or_only_part_of_one_leaves_the_folder_empty(drive, archives, recipe, tmp_path):
    folder = tmp_path / "a corpus"
    folder.mkdir()
    page = tmp_path / "page"
    page.write_text("<html>please log in</html>")
    part = tmp_path / "part"
    whole = Path(archives[recipe]).read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as file:
        file.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    for path, message in ((page, "is no whole archive"), (part, ""), (other, "it has no "), ("/nowhere", "")):
        done = fetch(drive, recipe, folder, f"file://{path}")
        assert done.returncode == 2
        errors = lines_with(done.stderr, "error: ")
        assert len(errors) == 1 and message in errors[0] and f"file://{path}" in errors[0], done.stderr
        assert "Traceback" not in done.stderr and not list(folder.iterdir())


@pytest.mark.parametrize("recipe", NAMES)
def test_folders_that_are_not_the_corpus_are_named(drive, recipe, tmp_path):
    name = NAMES[recipe]
    unset = drive("--recipe", recipe, "--stop-stage", "0")
    assert (
        unset.returncode == 2
        and f"{name} is not set: write the folder of your copy into db.sh" in unset.stderr
    )
    away = fetch(drive, recipe, tmp_path / "away", "file:///nowhere")
    assert f"{name}={tmp_path}/away is not a folder" in away.stderr
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "something").touch()
    other = fetch(drive, recipe, tmp_path / "away", "file:///nowhere")
    assert other.returncode == 2 and f"{name}={tmp_path}/away has no " in other.stderr


@pytest.mark.slow
def test_speech_commands_with_the_tiny_config_to_results(tree, drive, tmp_path):
    make_speechcommands(tmp_path / "words", words=("no", "yes"), speakers=6)
    env = {"SPEECHCOMMANDS": "words"}
    arguments = ("--recipe", "speechcommands", "--config", "conf/ast_tiny.yaml", *QUICK, "--stop-stage", "7")
    done = drive(*arguments, env=env, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    results = (tree / "egs/speechcommands/exp/ast_tiny/RESULTS.md").read_text()
    # The official list chose the epoch, so nothing was selected on eval.
    assert "| eval | best1 | 4 | 100.0 % | 2/2 |" in results and "elected on eval" not in results
    assert "task: single-label" in results
