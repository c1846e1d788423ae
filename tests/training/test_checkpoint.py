"""Checkpoints: what is read back, what is refused, and that nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audiotag.errors import CheckpointError
from audiotag.training.checkpoint import list_epochs, load_checkpoint, load_weights, save_checkpoint
from tests.tiny import tiny_checkpoint, tiny_tagger

ROOT = Path(__file__).resolve().parents[2]


def test_round_trip(tmp_path):
    path = tmp_path / "epoch-3.pt"
    save_checkpoint(path, tiny_checkpoint(epoch=3))
    state = load_checkpoint(path)
    assert state["position"] == {"epoch": 3, "batch": 0, "step": 30, "world_size": 1}
    for name, tensor in tiny_tagger().state_dict().items():
        assert torch.equal(state["model"][name], tensor)
    assert [item.name for item in tmp_path.iterdir()] == ["epoch-3.pt"]


def test_epochs_are_listed_by_number_and_other_files_ignored(tmp_path):
    for name in ("epoch-10.pt", "epoch-9.pt", "epoch-x.pt", ".epoch-11.pt.1.tmp", "step-4.pt"):
        (tmp_path / name).touch()
    assert list_epochs(tmp_path) == [9, 10]


def test_a_disk_that_refuses_the_file_is_named_and_the_old_file_stays(tmp_path):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint())
    code = """
import resource, sys
from audiotag.errors import run_command
from audiotag.training.checkpoint import save_checkpoint
from tests.tiny import tiny_checkpoint
state = tiny_checkpoint(seed=3)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
run_command(lambda: save_checkpoint(sys.argv[1], state))
"""
    path = str(tmp_path / "epoch-1.pt")
    done = subprocess.run([sys.executable, "-B", "-c", code, path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 6
    assert done.stderr.startswith(f"error: File too large while writing {path}: free some space")
    assert torch.equal(load_checkpoint(path)["model"]["head.bias"], tiny_tagger().state_dict()["head.bias"])
    assert [item.name for item in tmp_path.iterdir()] == ["epoch-1.pt"]


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "audiotag-checkpoint", "version": 1, "model": Malicious()}, "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: refused"):
        load_checkpoint("bad.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError, match=r"plain\.pt"):
        load_checkpoint("plain.pt")
    assert not (tmp_path / "executed").exists()


def test_a_flipped_bit_anywhere_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "epoch-1.pt"
    save_checkpoint(path, tiny_checkpoint())
    data = path.read_bytes()
    weight = tiny_tagger().state_dict()["encoder.pos_embed"].numpy().tobytes()
    place = data.index(weight) + len(weight) // 2
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(CheckpointError, match=r"epoch-1\.pt: damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused_by_name(tmp_path, keep):
    path = tmp_path / "epoch-1.pt"
    save_checkpoint(path, tiny_checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"epoch-1\.pt"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"hello", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", b"\x80\x02", b"\xff" * 99]
)
def test_files_of_other_kinds_are_refused_by_name(tmp_path, content):
    (tmp_path / "epoch-1.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"epoch-1\.pt: (damaged or not a checkpoint|refused)"):
        load_checkpoint(tmp_path / "epoch-1.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"format": "other"}, "not an audiotag checkpoint"),
        (torch.zeros(3), "not an audiotag checkpoint"),
        (
            {"format": "audiotag-checkpoint", "version": 99},
            "checkpoint version 99, this audiotag reads up to 2",
        ),
        ({"format": "audiotag-checkpoint", "version": 1, "model": {}}, "without optimizer"),
    ],
)
def test_other_files_are_refused(tmp_path, state, message):
    path = tmp_path / "a.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_weights_of_another_model_are_refused_by_the_first_tensor():
    tagger = tiny_tagger()
    weights = dict(tagger.state_dict())
    weights["head.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"x\.pt: .*head\.bias has shape \(7,\), expected \(3,\)"):
        load_weights(tagger, weights, "x.pt")
    del weights["head.bias"]
    with pytest.raises(CheckpointError, match=r"tensor head\.bias is missing"):
        load_weights(tagger, weights, "x.pt")
    with pytest.raises(CheckpointError, match="unknown tensor extra"):
        load_weights(tagger, {**tagger.state_dict(), "extra": torch.zeros(1)}, "x.pt")
