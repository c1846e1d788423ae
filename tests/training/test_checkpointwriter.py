"""Writing checkpoints in the background: what is in them, and what becomes of a disk that refuses them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.checkpointwriter import CheckpointWriter, snapshot
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def test_the_file_holds_the_state_of_the_moment_it_was_asked_for(tmp_path):
    state = tiny_checkpoint()
    weight = state["model"]["head.bias"]
    expected = weight.clone()
    writer = CheckpointWriter()
    writer.submit(tmp_path / "epoch-1.pt", state, lambda: None)
    weight.fill_(7.0)
    writer.finish()
    assert torch.equal(load_checkpoint(tmp_path / "epoch-1.pt")["model"]["head.bias"], expected)


def test_training_goes_on_while_a_file_is_written(tmp_path):
    go = threading.Event()
    writer = CheckpointWriter()
    writer.submit(tmp_path / "epoch-1.pt", tiny_checkpoint(), lambda: go.wait(10) or None)
    # It came back while `then` still waits, which the file lies before.
    go.set()
    writer.finish()
    assert (tmp_path / "epoch-1.pt").is_file()


def test_files_come_one_after_the_other(tmp_path):
    order = []
    writer = CheckpointWriter()
    for number in range(1, 4):
        writer.submit(
            tmp_path / f"epoch-{number}.pt", tiny_checkpoint(), lambda number=number: order.append(number)
        )
    writer.finish()
    assert order == [1, 2, 3]


def test_a_folder_that_cannot_be_written_costs_one_checkpoint_only(tmp_path, caplog):
    blocked = tmp_path / "gone"
    blocked.write_text("a file where a folder should be")
    writer = CheckpointWriter()
    with caplog.at_level(logging.ERROR):
        writer.submit(blocked / "epoch-1.pt", tiny_checkpoint(), lambda: None)
        writer.submit(tmp_path / "epoch-2.pt", tiny_checkpoint(), lambda: None)
        writer.finish()
    assert "epoch-1.pt was not written" in caplog.text
    assert "training goes on" in caplog.text
    assert (tmp_path / "epoch-2.pt").is_file()


def test_the_last_one_is_tried_again_and_then_it_is_an_error(tmp_path):
    blocked = tmp_path / "gone"
    blocked.write_text("a file where a folder should be")
    writer = CheckpointWriter()
    writer.submit(blocked / "epoch-1.pt", tiny_checkpoint(), lambda: None)
    with pytest.raises(OSError, match="gone"):
        writer.finish()
    writer.submit(blocked / "epoch-1.pt", tiny_checkpoint(), lambda: None)
    writer._wait()
    blocked.unlink()
    writer.finish()
    assert (blocked / "epoch-1.pt").is_file()


def test_an_error_of_the_program_is_raised_in_the_training_thread(tmp_path):
    writer = CheckpointWriter()
    writer.submit(tmp_path / "epoch-1.pt", tiny_checkpoint(), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.submit(tmp_path / "epoch-2.pt", tiny_checkpoint(), lambda: None)


def test_a_full_disk_keeps_the_earlier_checkpoint_and_ends_with_its_own_exit_code(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from audiotag.errors import run_command
from audiotag.training.checkpointwriter import CheckpointWriter
from tests.tiny import tiny_checkpoint
folder = Path(sys.argv[1])
writer = CheckpointWriter()
def main():
    writer.submit(folder / "epoch-1.pt", tiny_checkpoint(), lambda: None)
    writer.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    writer.submit(folder / "epoch-2.pt", tiny_checkpoint(), lambda: None)
    writer.finish()
run_command(main)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 6, done.stderr
    assert f"error: File too large while writing {tmp_path}/epoch-2.pt: free some space" in done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["epoch-1.pt"]
    load_checkpoint(tmp_path / "epoch-1.pt")


def test_a_snapshot_shares_nothing():
    state = {"a": torch.zeros(2), "b": [torch.ones(1), (torch.ones(2), 3)], "c": {"d": "text"}}
    copy = snapshot(state)
    state["a"].fill_(1)
    state["b"][1][0].fill_(5)
    assert copy["a"].tolist() == [0, 0]
    assert copy["b"][1][0].tolist() == [1, 1]
    assert copy["b"][1][1] == 3
    assert copy["c"] == {"d": "text"}
