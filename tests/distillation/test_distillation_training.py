"""Training with teachers: resumed, in several processes, and what its files hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiotag.augment.augmenter import build_augmenter
from audiotag.config import Config
from audiotag.data.index import IndexedManifest
from audiotag.data.loading import Unreadable
from audiotag.data.trainingset import TrainingDataset
from audiotag.distillation import hearing
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.evaluation.scoring import model_inputs
from audiotag.export.package import load_model
from audiotag.frontend import Frontend
from audiotag.training.averaging import averaged_checkpoint, choose_weights
from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.run import StartOptions, prepare_trainer
from audiotag.training.signals import StopRequest
from tests.data_pipeline.manifests import noise_clips
from tests.distillation.scenes import write_teacher
from tests.tiny import TINY, tiny_labels
from tests.training.processes import Run, assert_same_run

WORLD = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
AS_USUAL = StartOptions()
LAST = "epoch-2.pt"
# 36 clips in base batches of 3: six updates an epoch alone, three with two processes.
COMMON = """
include: config.yaml
data: {batch_size: 3, num_workers: 1}
training: {epochs: 2, accumulate: 2, log_every: 1, save_every_steps: 1, keep_last_steps: 9, ema: {decay: 0.9}}
augment: {mixup: {on: waveform, probability: 0.5, alpha: 10, partner: corpus}, masks: {name: ast}}
distillation: {teachers: [teachers/a], %s}
"""
WAYS = {"online": "mode: online, feature_weight: 1.0", "stored": "mode: stored, form: softmax"}


@pytest.fixture(scope="module")
def start(taught):
    """Start a training, or go on with it, one way or the other."""
    for way, section in WAYS.items():
        (taught.folder / f"{way}.yaml").write_text(COMMON % section)

    def begin(way: str, name: str, *options: str, processes: int = 1) -> Run:
        arguments = ("--config", f"{way}.yaml", "--exp-dir", f"exp/{name}", *options)
        return Run(taught, *arguments, processes=processes)

    return begin


@pytest.fixture(scope="module")
def whole(start, taught):
    """An undisturbed online training of two processes."""
    run = start("online", "taught-whole", processes=2)
    assert run.wait() == 0, run.output
    return run, taught.exp("taught-whole")


@pytest.mark.slow
def test_two_processes_killed_go_on_to_the_same_bits(start, taught, whole):
    folder = taught.exp("taught-killed")
    run = start("online", "taught-killed", processes=2)
    assert run.wait_until(lambda: (folder / "step-2.pt").exists())
    run.kill()
    assert not (folder / LAST).exists()
    run = start("online", "taught-killed", processes=2)
    assert run.wait() == 0, run.output
    assert_same_run(whole[1], folder, LAST)
    one, other = (load_checkpoint(path / LAST) for path in (whole[1], folder))
    assert torch.equal(one["loss"]["projection.weight"], other["loss"]["projection.weight"])


@pytest.mark.slow
def test_stored_scores_are_made_by_training_and_survive_a_kill(start, taught):
    run = start("stored", "taught-stored")
    assert run.wait() == 0, run.output
    assert "teachers hear 36 clips in 1 blocks, 0 of which are done" in run.output
    folder = taught.exp("taught-stored-killed")
    run = start("stored", "taught-stored-killed")
    assert run.wait_until(lambda: (folder / "step-3.pt").exists())
    run.kill()
    run = start("stored", "taught-stored-killed")
    assert run.wait() == 0, run.output
    assert "teachers hear" not in run.output
    assert_same_run(taught.exp("taught-stored"), folder, LAST)


@pytest.mark.slow
def test_the_map_between_embeddings_learns_from_all_processes(start, taught, whole):
    # Two batches by one process make the update that one each by two of them make.
    run = start(
        "online", "taught-two", "--set", "training.accumulate=1", "--set", "training.epochs=1", processes=2
    )
    assert run.wait() == 0, run.output
    run = start("online", "taught-one", "--set", "training.epochs=1")
    assert run.wait() == 0, run.output
    two, one = (load_checkpoint(taught.exp(f"taught-{name}") / "epoch-1.pt") for name in ("two", "one"))
    for key in ("loss", "model"):
        for name, tensor in one[key].items():
            torch.testing.assert_close(two[key][name], tensor, atol=2e-4, rtol=1e-3, msg=name)


def test_the_log_shows_the_parts_and_exports_know_no_teacher(whole):
    run, folder = whole
    assert "loss 0." in run.output or "loss 1." in run.output
    assert " (labels " in run.output and ", teacher " in run.output and ", features " in run.output
    checkpoint = load_checkpoint(folder / LAST)
    assert list(checkpoint["loss"]) == ["label_loss.weights", "projection.weight", "projection.bias"]
    assert not [name for name in checkpoint["model"] if "projection" in name and "patch_embed" not in name]
    assert [one["share"] for one in checkpoint["teachers"]] == [1.0]
    chosen = choose_weights(folder, Config.model_validate({"evaluation": {"avg": 2}}).evaluation)
    assert "loss" not in averaged_checkpoint(chosen)
    assert load_model(folder / LAST).tagger.head.weight.shape == (10, 16)


@pytest.fixture
def prepare(tmp_path):
    """Prepare a training on noise with a tiny teacher."""
    data_dir = tmp_path / "data"
    (data_dir / "manifests").mkdir(parents=True)
    noise_clips(tmp_path / "audio", 24, num_classes=3).rename(data_dir / "manifests" / "cuts_train.jsonl")
    tiny_labels().write(data_dir / "manifests" / "labels.csv")
    (data_dir / "manifests" / "coverage.json").write_text(json.dumps({"train": {}}))
    write_teacher(tmp_path / "teacher", tiny_labels())

    def build(options=AS_USUAL, augment=None, **distillation):
        tree = {
            **TINY,
            "features": {**TINY["features"], "storage": "on_the_fly"},
            "corpus": {"name": "audioset", "valid_share": 0.0},
            "data": {"num_workers": 0, "batch_size": 4},
            "augment": augment or {},
            "distillation": {"teachers": [str(tmp_path / "teacher")], **distillation},
        }
        config = Config.model_validate(tree)
        return prepare_trainer(config, data_dir, tmp_path / "exp", WORLD, options, StopRequest())

    return build


def batches_of(trainer) -> list:
    """What the model gets in the first epoch."""
    return [trainer.next_inputs(iter([batch]), 1, 0)[0] for batch in trainer.train_loader(1, 0)]


@pytest.mark.parametrize("form", ["bce", "softmax"])
def test_stored_and_online_teachers_say_the_same_of_clips_that_nothing_changes(prepare, form):
    stored, online = (batches_of(prepare(mode=mode, form=form)) for mode in ("stored", "online"))
    for one, other in zip(stored, online, strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.targets[:, :3], other.targets[:, :3])
        torch.testing.assert_close(one.targets, other.targets, atol=5e-4, rtol=0)
    assert all(batch.targets.shape == (4, 6) for batch in stored)


def test_a_run_does_not_go_on_with_another_teacher(prepare, tmp_path, caplog):
    trainer = prepare()
    trainer.position.batch = trainer.position.step = 1
    trainer.save({})
    trainer.keeper.finish()
    write_teacher(tmp_path / "teacher", tiny_labels(), seed=9)
    with pytest.raises(ConfigError, match="was trained with other teachers"):
        prepare()
    prepare(StartOptions(allow_changes=True))
    assert "was trained with other teachers than distillation.teachers are now" in caplog.text


def test_stored_teachers_have_not_heard_crops(prepare, caplog):
    prepare(augment={"crop": {"duration_s": 0.1}})
    assert "augment.crop has the student hear a part of a clip" in caplog.text
    caplog.clear()
    prepare(StartOptions(restart=True), augment={"crop": {"duration_s": 0.1}}, mode="online")
    assert "hear a part" not in caplog.text


def test_weights_of_the_student_do_not_depend_on_its_teachers(prepare):
    plain = prepare(alpha=0.9).tagger.state_dict()
    matched = prepare(StartOptions(restart=True), mode="online", feature_weight=1.0).tagger.state_dict()
    assert all(torch.equal(plain[name], matched[name]) for name in plain)


class SameAsLabels:
    """Stands for a teacher that knows the labels, but has not heard one of the clips."""

    def __init__(self, dataset: TrainingDataset, unheard: int) -> None:
        self.dataset = dataset
        self.unheard = unheard

    def check(self, position: int, clip_id: str) -> None:
        if position == self.unheard:
            raise Unreadable(clip_id, "unheard")

    def __call__(self, positions: list[int]) -> torch.Tensor:
        labels = torch.zeros(len(positions), 5)
        for row, position in enumerate(positions):
            labels[row, self.dataset.manifest.labels(position).tolist()] = 1.0
        return labels


@pytest.mark.parametrize("partner", ["corpus", "batch"])
def test_soft_targets_are_mixed_and_replaced_as_labels_are(tmp_path, partner):
    dataset = TrainingDataset(
        IndexedManifest(noise_clips(tmp_path, 12)),
        storage="on_the_fly",
        num_classes=5,
        seed=1,
        substitutes=lambda epoch, key, count: np.arange(count) % 12,
        partner_probability=0.7 if partner == "corpus" else None,
    )
    dataset.targets = SameAsLabels(dataset, unheard=4)
    settings = {"on": "waveform", "probability": 0.7, "alpha": 1.0, "partner": partner}
    section = Config.model_validate(
        {"augment": {"mixup": settings}, "features": {"storage": "on_the_fly"}}
    ).model_dump()
    augmenter = build_augmenter(section["augment"])
    batch = dataset[(1, np.arange(12))]
    assert batch["num_replaced"] == 1 and ("-clip_4", "unheard") in batch["replaced"]
    _, _, targets = augmenter(batch, Frontend("ast128", 64), torch.device("cpu"), (1, 1, 1))
    assert targets.shape == (12, 10)
    assert torch.equal(targets[:, :5], targets[:, 5:])
    assert ((targets > 0) & (targets < 1)).any()


def test_a_teacher_whose_scores_are_not_finite_is_refused(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "model_inputs", lambda *batch: spoilt(model_inputs(*batch)))
    with pytest.raises(ConfigError, match=r"scores of clip -clip_\d+ are not finite; take another teacher"):
        prepare()


def spoilt(inputs):
    features, lengths = inputs
    features[0, 0, 0] = float("nan")
    return features, lengths
