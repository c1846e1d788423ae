"""What a run goes on from, what it refuses to go on from, and what it leaves alone when it does."""

from __future__ import annotations

import json
import logging
import signal
import zipfile

import pytest
import torch

from audiotag.config import Config
from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError, StoppedBySignal
from audiotag.training import batchlimit
from audiotag.training.batchlimit import needs_other_memory
from audiotag.training.checkpoint import load_checkpoint, save_checkpoint
from audiotag.training.divergence import StepInput
from audiotag.training.divergencereport import report_divergence
from audiotag.training.keeper import CheckpointKeeper
from audiotag.training.resume import find_checkpoint
from audiotag.training.retention import Retention
from audiotag.training.run import StartOptions, prepare_trainer
from audiotag.training.scoreboard import Scoreboard
from audiotag.training.signals import StopRequest
from tests.data_pipeline.manifests import noise_clips
from tests.tiny import TINY, tiny_checkpoint, tiny_config, tiny_labels

COUNTS = {"listed": 24, "present": 24, "skipped": {}, "seconds": 6.0}
WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
AS_USUAL = StartOptions()
CHANGES = StartOptions(allow_changes=True)


@pytest.fixture
def data_dir(tmp_path):
    manifests = tmp_path / "data" / "manifests"
    manifests.mkdir(parents=True)
    noise_clips(tmp_path / "audio", 24, num_classes=3).rename(manifests / "cuts_train.jsonl")
    tiny_labels().write(manifests / "labels.csv")
    (manifests / "coverage.json").write_text(json.dumps({"train": COUNTS}))
    return tmp_path / "data"


@pytest.fixture
def start(data_dir):
    """Prepare a run in exp/ with sections of the configuration in place of the usual ones."""

    def prepare(options=AS_USUAL, **sections):
        settings = {
            "features": {**TINY["features"], "storage": "on_the_fly"},
            "encoder": TINY["encoder"],
            "corpus": {"name": "audioset", "valid_share": 0.0},
            "data": {"num_workers": 0, "batch_size": 4},
            "training": {"epochs": 2},
            **sections,
        }
        config = Config.model_validate(settings)
        return prepare_trainer(config, data_dir, data_dir.parent / "exp", WORLD, options, StopRequest())

    return prepare


@pytest.fixture
def stopped(start):
    """A run that has a checkpoint after two of the six updates of its first epoch."""
    trainer = start()
    trainer.position.batch, trainer.position.step = 2, 2
    trainer.save({})
    trainer.keeper.finish()
    return trainer.keeper.folder


@pytest.fixture
def handlers():
    """Signal handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_files_that_cannot_be_read_are_no_reason_to_begin_anew(tmp_path):
    assert find_checkpoint(tmp_path, "auto", WORLD) == (None, None)
    (tmp_path / "epoch-1.pt").write_bytes(b"PK\x03\x04 half a file")
    (tmp_path / "step-9.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of its checkpoints can be read.*--restart"):
        find_checkpoint(tmp_path, "auto", WORLD)
    save_checkpoint(tmp_path / "step-4.pt", tiny_checkpoint())
    assert find_checkpoint(tmp_path, "auto", WORLD)[0] == tmp_path / "step-4.pt"


def test_a_checkpoint_of_a_later_version_is_not_passed_over(tmp_path):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint())
    save_checkpoint(tmp_path / "epoch-2.pt", {**tiny_checkpoint(epoch=2), "version": 99})
    with pytest.raises(CheckpointError, match="checkpoint version 99"):
        find_checkpoint(tmp_path, "auto", WORLD)


def test_a_failing_file_system_is_not_a_damaged_file(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "epoch-1.pt", tiny_checkpoint())

    def fail(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", fail)
    with pytest.raises(OSError, match="Input/output error"):
        find_checkpoint(tmp_path, "auto", WORLD)


def test_averaged_weights_cannot_be_trained_on(tmp_path):
    path = tmp_path / "averaged-best3.pt"
    save_checkpoint(path, {**tiny_checkpoint(), "averaged": {"name": "best3"}})
    with pytest.raises(CheckpointError, match="averaged weights, without what training needs"):
        find_checkpoint(tmp_path, str(path), WORLD)


@pytest.mark.parametrize(
    ("damaged", "position", "written"),
    [
        (("step-900", "step-1000"), {"epoch": 0, "step": 850}, "step-850"),
        (("epoch-4", "epoch-5"), {"epoch": 3, "step": 30}, "epoch-3"),
    ],
)
def test_damaged_files_of_what_is_to_come_do_not_cost_the_newest(tmp_path, damaged, position, written):
    for name in damaged:
        (tmp_path / f"{name}.pt").write_bytes(b"damaged")
    keeper = CheckpointKeeper(tmp_path, WORLD, Retention(1, 1, 1, 0), {})
    keeper.save(tmp_path / f"{written}.pt", {**tiny_checkpoint(), "position": position}, Scoreboard("mAP"))
    keeper.finish()
    load_checkpoint(tmp_path / f"{written}.pt")


def test_the_best_that_are_kept_are_files_that_exist():
    retention = Retention(last_epochs=1, last_steps=1, best=1, before_best=0)
    assert retention.superfluous([1, 2, 3], [], ["epoch-9.pt", "epoch-1.pt", "epoch-2.pt"]) == ["epoch-2.pt"]


def test_a_checkpoint_that_does_not_fit_leaves_the_folder_as_it_was(start, stopped):
    def content():
        return {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}

    before = content()
    with pytest.raises(CheckpointError, match=r"step-2\.pt: does not fit the model: tensor"):
        start(CHANGES, encoder={**TINY["encoder"], "embed_dim": 32})
    assert content() == before


def test_the_schedule_counts_as_it_did_when_the_run_began(start, stopped):
    state = load_checkpoint(stopped / "step-2.pt")
    assert state["position"]["steps_per_epoch"] == 6
    state["position"]["steps_per_epoch"] = 24  # as if by a quarter of the processes
    save_checkpoint(stopped / "step-2.pt", state)
    exponential = {"name": "exponential", "per": "step", "decay": 0.9}
    trainer = start(CHANGES, schedule=exponential)
    assert trainer.steps_per_epoch == 24
    # Two of the epoch's six batches are done: 8 of its 24 updates.
    assert trainer.schedule(trainer.schedule_step()) == pytest.approx(0.9**8)


def test_other_batches_go_on_behind_the_same_share_of_the_epoch(start, stopped, caplog):
    assert start().position.batch == 2
    assert "come twice" not in caplog.text
    trainer = start(CHANGES, data={"num_workers": 0, "batch_size": 8})
    assert trainer.position.batch == 1
    assert "epoch 1 has 3 batches over all processes now, 6 when the checkpoint was written" in caplog.text


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"name": "sgd"}},
        {"optimizer": {"name": "adamw", "layer_decay": 0.5}},
        {"training": {"epochs": 2, "amp": "fp16"}},
    ],
)
def test_another_optimiser_or_precision_begins_with_a_state_of_its_own(start, stopped, sections, caplog):
    trainer = start(CHANGES, **sections)
    assert trainer.position.step == 2
    assert ("its state begins anew" in caplog.text) == ("optimizer" in sections)


def test_other_weights_of_classes_are_noticed_behind_the_same_name(start, stopped, tmp_path):
    table = tmp_path / "weights.csv"
    rows = [f"{label.mid},1\n" for label in tiny_labels()]
    table.write_text("mid,weight\n" + "".join(rows))
    loss = {"name": "bce", "class_weights": str(table)}
    trainer = start(CHANGES, loss=loss)
    trainer.save({})
    trainer.keeper.finish()
    table.write_text("mid,weight\n" + "".join([*rows[:-1], rows[-1].replace(",1", ",5")]))
    with pytest.raises(ConfigError, match="other weights of the classes in the loss"):
        start(loss=loss)
    start(CHANGES, loss=loss)


def test_a_metric_is_not_compared_with_another(caplog):
    scoreboard = Scoreboard("loss")
    entry = {"file": "epoch-1.pt", "epoch": 1, "step": 10, "value": 0.02}
    with caplog.at_level(logging.WARNING):
        scoreboard.restore({"best": {"metric": "mAP", **entry}, "validations": [entry]})
    assert scoreboard.best is None and scoreboard.ranking() == []
    assert "was judged by mAP, from here by loss" in caplog.text


def test_the_limit_of_batches_is_found_for_clips_as_they_are_trained_on(start, monkeypatch):
    seen = []

    def largest(config, durations, num_classes, world):
        seen.append(durations.tolist())
        return 1.0

    monkeypatch.setattr(batchlimit, "largest_duration", largest)
    data = {"num_workers": 0, "batch_size": None, "max_duration_s": "auto", "length_multiple_s": 0.1}
    trainer = start(data=data, augment={"crop": {"duration_s": 0.15}})
    assert seen == [pytest.approx([0.2] * 24)]  # crops of 0.15 s in steps of 0.1 s
    trainer.save({})
    trainer.keeper.finish()
    start(data=data, augment={"crop": {"duration_s": 0.15}})
    assert len(seen) == 1
    start(CHANGES, data=data, augment={"crop": {"duration_s": 0.15}}, training={"epochs": 2, "amp": "bf16"})
    assert len(seen) == 2


def test_what_changes_the_memory_of_a_batch_is_known():
    before = tiny_config()
    assert not needs_other_memory(before, tiny_config())
    for section, key, value in (
        ("encoder", "depth", 3),
        ("training", "activation_checkpointing", True),
        ("optimizer", "name", "sgd"),
        ("training", "ema", {"decay": 0.9}),
    ):
        now = tiny_config()
        now[section][key] = value
        assert needs_other_memory(before, now), key
    now = tiny_config()
    now["optimizer"]["lr"] = 1.0
    del before["training"]["compile"]
    assert not needs_other_memory(before, now)


def test_batches_are_padded_to_the_multiple_where_they_are_trained_on_alone(start):
    data = {"num_workers": 0, "batch_size": 4, "length_multiple_s": 0.5}
    frontend = start(data=data).tagger.frontend
    frontend.target_frames = None
    assert frontend.train().padded_size(51) == 100
    assert frontend.eval().padded_size(51) == 51


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (StartOptions(), "the same command goes on from there"),
        (StartOptions(restart=True), "the same command without --restart goes on from there"),
        (StartOptions(resume="exp/a/epoch-3.pt"), "the same command without --resume goes on from there"),
    ],
)
def test_how_a_stopped_run_goes_on_depends_on_how_it_began(start, handlers, options, text):
    trainer = start()
    trainer.go_on = options.go_on()
    with pytest.raises(StoppedBySignal, match=f"; {text}$"):
        trainer.leave()


def test_a_stop_that_is_known_late_comes_before_a_validation(start, handlers):
    trainer = start(training={"epochs": 2, "validate_every_steps": 1})
    trainer.validation = lambda *arguments: pytest.fail("a validation that nobody wants to wait for")
    trainer.position.step, trainer.position.batch, trainer.stopping = 1, 1, True
    with pytest.raises(StoppedBySignal, match="after update 1; saved"):
        trainer.validate_if_due()
    # It is made up for when the run goes on.
    assert load_checkpoint(trainer.keeper.folder / "step-1.pt")["position"]["validated_step"] is None


def test_clips_are_named_also_where_the_fault_does_not_come_again(start, tmp_path):
    trainer = start()
    ids = [f"clip{index}" for index in range(7)]
    features = torch.zeros(7, 64, 128)
    batch = StepInput(features, torch.full((7,), 64), torch.zeros(7, 3), ids, seed=1)
    what, replay = report_divergence(
        trainer.learner, [batch], 12, world=WORLD, folder=tmp_path, config=trainer.keeper.record["config"]
    )
    assert what.startswith("update 12 was not made: its loss or gradient was not finite, where first was not")
    assert "(clips clip0, clip1, clip2, clip3, clip4 and 2 more)" in what
    assert f"--replay {tmp_path}/divergence-step-12-rank-0.pt" in replay
