"""The look before a run: what is well, what is not, and that nothing is changed by looking."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audiotag.checks import machine, space
from audiotag.checks.finding import exit_code, screen
from audiotag.checks.preflight import preflight
from audiotag.checks.processes import Place, merged
from audiotag.configfile import load_config
from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.runlock import lock_run
from tests.conftest import ROOT

ARGUMENTS = ("--config", "config.yaml", "--exp-dir", "exp/checked")


def look(recipe, *overrides: str, data_dir: str = "data", exp_dir: Path | str = "exp/checked"):
    """The findings on a recipe, and all of them as text."""
    config = load_config(
        recipe.folder / "config.yaml", [f"corpus.dir={recipe.folder / 'corpus'}", *overrides]
    )
    findings = preflight(
        config, recipe.folder / data_dir, recipe.folder / exp_dir, device="cpu", timeout_s=5.0, num_clips=5
    )
    return findings, screen(findings)


def bad(findings) -> dict[str, str]:
    """Level by subject of all that is not well."""
    return {finding.subject: finding.level for finding in findings if finding.level != "ok"}


def test_the_command_finds_all_well_and_changes_nothing(recipe):
    def files() -> list[Path]:
        # Indexes are made by whoever opens a manifest first.
        return sorted(path for path in recipe.folder.rglob("*") if path.suffix != ".idx")

    before = files()
    done = recipe.run("check", *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout and "all 20 of a sample can be read" in done.stdout
    assert len(done.stdout.splitlines()) < 30
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert files() == before


def test_models_to_start_and_learn_from_are_looked_for(recipe, tmp_path):
    findings, text = look(recipe, f"init.model={tmp_path / 'absent.pth'}")
    assert bad(findings) == {"start": "fail"}
    assert "absent.pth" in text and "init.model=null starts from random weights" in text.replace(
        "\n" + " " * 21, " "
    )
    findings, text = look(recipe, f"distillation.teachers=[{tmp_path / 'absent.pt'}]")
    assert bad(findings) == {"teacher": "fail"}
    (tmp_path / "there.pth").touch()
    findings, text = look(recipe, f"init.model={tmp_path / 'there.pth'}")
    assert bad(findings) == {} and "there.pth" in text


def test_two_processes_add_up_a_tensor(recipe):
    done = recipe.run("check", *ARGUMENTS, "--device", "cpu", processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 add up a tensor by gloo" in done.stdout
    assert done.stdout.count("configuration") == 1


def start_rank(recipe, rank: int, size: int, port: int) -> subprocess.Popen:
    """One process as a launcher of another kind would start it."""
    place = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "audiotag.bin.check", *ARGUMENTS, "--device", "cpu", "--timeout", "40"],
        cwd=recipe.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in place.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("absent", [0, 2])
def test_a_process_that_is_missing_is_named(recipe, absent):
    held = socket.socket()
    held.bind(("127.0.0.1", 0))  # and never listens: nobody else comes by this port
    port = held.getsockname()[1]
    if absent != 0:
        held.close()
    started = time.monotonic()
    ranks = {rank: start_rank(recipe, rank, 3, port) for rank in range(3) if rank != absent}
    output = {rank: process.communicate(timeout=200)[0] for rank, process in ranks.items()}
    assert time.monotonic() - started < 180
    assert {process.returncode for rank, process in ranks.items() if rank == 0 or absent == 0} == {5}
    if absent == 2:
        assert "fail  processes      of 3, rank 2 did not come within 40 s" in output[0]
        assert "configuration" in output[0] and "corpus" in output[0]
    else:
        assert "rank 1 of 3 cannot reach 127.0.0.1" in output[1] and "Connection refused" in output[1]
    held.close()


def test_a_corpus_that_has_lost_its_files(recipe, tmp_path):
    shutil.copytree(recipe.folder / "data", tmp_path / "data")
    for split in ("train", "valid"):
        cuts = tmp_path / "data" / "manifests" / f"cuts_{split}.jsonl"
        cuts.write_text(cuts.read_text().replace("corpus/audio", "corpus/nowhere"))
    findings, text = look(recipe, data_dir=str(tmp_path / "data"))
    assert bad(findings) == {"train": "fail", "valid": "fail"} and exit_code(findings) == 3
    assert "5 of a sample of 5 clips cannot be read" in text


def test_a_corpus_that_is_not_prepared(recipe, tmp_path):
    findings, text = look(recipe, data_dir=str(tmp_path))
    assert bad(findings) == {"corpus": "warn"} and exit_code(findings) == 0
    assert "stages 1 to 4" in text
    findings, text = look(recipe, f"corpus.dir={tmp_path}/gone", data_dir=str(tmp_path))
    assert bad(findings) == {"corpus": "fail"} and exit_code(findings) == 3


def test_features_that_are_not_stored_yet(recipe):
    findings, text = look(recipe, "features.storage=stored")
    assert bad(findings) == {"train": "warn", "valid": "warn", "eval": "warn"}
    hours = sum(load_durations(recipe)) / 3600
    assert f"of {hours:.1f} h" in text


def load_durations(recipe):
    config = load_config(recipe.folder / "config.yaml")
    planned, _ = space.planned_features(
        config.model_copy(update={"features": config.features.model_copy(update={"storage": "stored"})}),
        recipe.folder / "data",
    )
    assert planned > 0
    return [duration for split in space.SPLITS for duration in durations_of(recipe, split)]


def durations_of(recipe, split):
    return space.open_split(recipe.folder / "data", split, preset="ast128", storage="on_the_fly").durations


def test_a_run_that_is_at_it(recipe):
    folder = recipe.exp("held")
    with lock_run(folder):
        script = "import sys; from audiotag.training.runlock import running_in; from pathlib import Path;"
        script += "print(running_in(Path(sys.argv[1])))"
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    assert f"(process {os.getpid()} on " in done.stdout
    findings, _ = look(recipe, exp_dir=folder)
    assert not bad(findings)


def test_folders_that_cannot_be_written_and_disks_that_are_too_small(recipe, mount):
    findings, text = look(recipe, exp_dir=mount("ro,size=1m") / "exp")
    assert bad(findings)["run's folder"] == "fail" and exit_code(findings) == 6
    assert "Read-only file system" in text
    findings, text = look(recipe, exp_dir=mount("size=1m") / "exp")
    assert bad(findings) == {"disk space": "fail"} and exit_code(findings) == 6
    assert "free some space" in text


def test_a_wrong_configuration_is_refused_like_everywhere(recipe):
    done = recipe.run("check", *ARGUMENTS, "--set", "training.epoch=3")
    assert done.returncode == 2 and "did you mean 'training.epochs'" in done.stderr


def test_the_size_of_a_checkpoint_is_known_before(finished):
    config = load_config(finished / "config.yaml")
    state = load_checkpoint(finished / "epoch-4.pt")
    stored = sum(
        tensor.nbytes for name in ("model", "averages", "optimizer") for tensor in tensors(state[name])
    )
    count = sum(tensor.numel() for tensor in state["model"].values())
    assert 0.97 < stored / space.checkpoint_bytes(config, count) < 1.03
    many = {"ema": {}, "running_average": {}}
    config = config.model_validate(
        {**config.model_dump(), "training": {**config.model_dump()["training"], **many}}
    )
    assert space.checkpoint_bytes(config, 1000) == 1000 * (12 + 16)


def tensors(value):
    """All tensors of nested values."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["training.epochs=30"], 31),
        (["training.epochs=30", "training.keep_last=3"], 6),
        (["training.epochs=30", "training.keep_last=3", "training.save_every_steps=100"], 8),
        (["training.epochs=2", "training.keep_last=9"], 3),
    ],
)
def test_how_many_checkpoints_are_kept(recipe, overrides, kept):
    assert space.kept_checkpoints(load_config(recipe.folder / "config.yaml", overrides)) == kept


class Gpus:
    """CUDA with a number of devices, one of which may be sick; notes which are touched."""

    def __init__(self, monkeypatch, count: int, sick: int | None = None) -> None:
        self.sick, self.touched, self.current = sick, [], 0
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", self.take)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self.memory)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)

    def take(self, device: torch.device) -> None:
        self.current = device.index

    def memory(self, device: int | None = None) -> tuple[int, int]:
        device = self.current if device is None else device
        self.touched.append(device)
        if device == self.sick:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might")
        return 2 * machine.GIB if device == 1 else 80 * machine.GIB, 80 * machine.GIB


def test_a_process_looks_at_its_own_gpu_alone(recipe, monkeypatch):
    config = load_config(recipe.folder / "config.yaml")
    gpus = Gpus(monkeypatch, 4, sick=2)

    def found(rank: int, size: int = 4, device: str = "auto") -> list[tuple[str, str]]:
        findings = machine.check_gpus(config, Place(rank, size, rank, size), device)
        return [(finding.level, finding.text) for finding in findings]

    [(level, text)] = found(0)
    assert level == "ok" and text.startswith("GPU with 80 GiB, one of 4") and gpus.touched == [0]
    assert ("warn", "GPU 1 has 2.0 of 80.0 GiB free") in found(1) and gpus.touched == [0, 1]
    [(level, text)] = found(2)
    assert level == "fail" and "local rank 2 does not work (CUDA error: uncorrectable ECC" in text
    assert found(0, 5) == [("fail", "5 processes on this machine, 4 GPUs")]
    [(level, text)] = found(0, 5, "cpu")
    assert level == "ok" and text.startswith("not asked for; training takes the CPU")
    assert gpus.touched == [0, 1, 2]


def test_a_gpu_that_is_asked_for_and_not_there(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load_config(recipe.folder / "config.yaml")
    [finding] = machine.check_gpus(config, Place(0, 1, 0, 1), "cuda")
    assert finding.level == "fail" and "a GPU is asked for, but torch sees none" in finding.text


def test_little_shared_memory_and_few_open_files(recipe, monkeypatch, tmp_path):
    config = load_config(recipe.folder / "config.yaml", ["data.num_workers=4", "data.batch_size=100000"])
    assert machine.check_shared_memory(config, 8).level == "warn"
    assert machine.check_shared_memory(load_config(recipe.folder / "config.yaml"), 1).level == "ok"
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (64, 4096))
    finding = machine.check_open_files(config)
    assert finding.level == "warn" and "ulimit -n 4096" in finding.advice
    assert machine.check_cores(config, 999).level == "warn"


def test_findings_of_several_processes_become_one_line():
    def entry(level, text):
        return {"level": level, "subject": "cores", "text": text, "advice": "", "exit_code": 2}

    assert [f.text for f in merged({0: [entry("ok", "a")], 1: [entry("ok", "b")]})] == ["a"]
    [finding] = merged({0: [entry("ok", "a")], 1: [entry("fail", "b")], 2: [entry("fail", "c")]})
    assert (finding.level, finding.text) == ("fail", "rank 1, 2: b")
