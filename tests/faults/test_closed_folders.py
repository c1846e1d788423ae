"""What may not be read or written is refused at the start, before hours are spent."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from audiotag.configcorpus import MyDataCorpus
from audiotag.corpora.features import extract_splits
from audiotag.corpora.mydata import prepare_mydata
from audiotag.corpora.stats import corpus_stats
from audiotag.data.splits import open_split
from audiotag.errors import AudiotagError, StorageError, describe
from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.runlock import lock_run
from audiotag.writable import check_writable
from tests.corpora.owncorpus import OwnCorpus


@pytest.fixture
def place() -> Path:
    """A folder that everybody may pass through, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def prepared(recipe, place) -> Path:
    """The small corpus' manifests, in a folder that belongs to somebody else."""
    shutil.copytree(recipe.folder / "data", place / "data")
    for path in (place / "data").rglob("*.idx"):
        path.unlink()
    return place / "data"


def refusal(function, *arguments, **options) -> str:
    """The message and the code with which something is refused."""
    with pytest.raises((AudiotagError, OSError)) as caught:
        function(*arguments, **options)
    message, exit_code = describe(caught.value)
    assert exit_code in (3, 4, 6), message
    return message


def test_a_run_s_folder(place, nobody):
    for folder in (place, place / "new"):
        with pytest.raises(StorageError, match=rf"cannot write into {folder} \(Permission denied\)"):
            lock_run(folder).__enter__()
        with pytest.raises(StorageError, match=rf"cannot write into {place} \(Permission denied\)"):
            check_writable(folder)


def test_a_file_where_a_folder_is_expected(place):
    (place / "file").touch()
    with pytest.raises(StorageError, match=r"file/deep: .*/file is a file"):
        check_writable(place / "file" / "deep")


def test_the_folder_of_the_stages(prepared, nobody):
    features = {"preset": "ast128", "storage": "on_the_fly", "target_frames": 64}
    for message in (
        refusal(extract_splits, prepared, preset="ast128"),
        refusal(corpus_stats, prepared, "ast128-64", **features),
    ):
        assert message.startswith(f"cannot write into {prepared} (Permission denied)")


def test_a_read_only_disk_is_refused_before_anything_is_scored(recipe, finished, mount):
    disk = mount("size=8m")
    for name in ("epoch-4.pt", "config.yaml"):
        shutil.copy(finished / name, disk)
    os.system(f"mount -o remount,ro {disk}")  # noqa: S605 (a path of this test)
    done = recipe.run(
        "evaluate", "--config", "config.yaml", "--exp-dir", str(disk), "--set", "evaluation.epoch=4"
    )
    assert done.returncode == 6, done.stderr
    assert f"error: cannot write into {disk} (Read-only file system)" in done.stderr
    assert "scoring" not in done.stderr


def test_a_corpus_whose_folder_is_closed(place, nobody):
    os.seteuid(0) if os.getuid() == 0 else None
    corpus = OwnCorpus(place)
    corpus.clip("dog/a.wav")
    (place / "data").mkdir()
    (place / "data").chmod(0o777)
    corpus.root.chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    settings = MyDataCorpus(dir=str(corpus.root))
    message = refusal(prepare_mydata, place / "data" / "manifests", settings)
    assert str(corpus.root) in message and "ermission" in message


@pytest.mark.parametrize("what", ["cuts", "checkpoint"])
def test_files_that_may_not_be_read(prepared, finished, place, what, request):
    path = prepared / "manifests" / "cuts_train.jsonl"
    if what == "checkpoint":
        path = Path(shutil.copy(finished / "epoch-4.pt", place))
    path.chmod(0)
    request.getfixturevalue("nobody")
    function = {
        "cuts": lambda: open_split(prepared, "train", preset="ast128", storage="on_the_fly"),
        "checkpoint": lambda: load_checkpoint(path),
    }[what]
    message = refusal(function)
    assert str(path) in message and "ermission" in message
