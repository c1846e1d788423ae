"""Online teachers hear what the student hears, and their targets follow it."""

from __future__ import annotations

import logging

import pytest
import torch

from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.config import Config
from audiotag.distillation.online import OnlineTeachers, check_inputs
from audiotag.distillation.teachers import open_teachers
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.frontend import Frontend
from tests.distillation.scenes import write_teacher
from tests.tiny import TINY, tiny_labels

KEY = (1, 2, 3)
CPU = torch.device("cpu")
MIXED = {"on": "features", "probability": 1.0, "alpha": 1.0, "partner": "batch"}
MASKS = {"name": "ast", "freq_width": 60, "time_width": 30}


def scene(tmp_path, *, teacher: dict | None = None, storage: str = "on_the_fly", **sections):
    """Online teachers and the student's front end."""
    write_teacher(tmp_path / "teacher", tiny_labels(), features=teacher)
    tree = {
        **TINY,
        "features": {**TINY["features"], "storage": storage},
        "distillation": {"teachers": [str(tmp_path / "teacher")], "mode": "online"},
        **sections,
    }
    config = Config.model_validate(tree)
    section = config.model_dump(mode="json")
    augmenter = build_augmenter(section["augment"]) or Augmenter({}, {})
    teachers = open_teachers(config, tiny_labels(), World(0, 0, 1, CPU))
    features = section["features"]
    frontend = Frontend(features["preset"], features["target_frames"], features["mean"], features["std"])
    check_inputs(config, teachers, frontend, augmenter)
    return OnlineTeachers(augmenter, teachers, section["distillation"], "off"), frontend.train()


def batch(clips: int = 4) -> dict:
    """Waveforms of 0.6 s, or with features stored ones."""
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": 0.1 * torch.randn(clips, 9600, generator=generator),
        "lengths": torch.tensor([9600, 8000, 9600, 7000][:clips]),
        "labels": torch.eye(3)[[0, 1, 2, 0]][:clips],
    }


def soft(online: OnlineTeachers, features, lengths):
    return online.teachers([(features, lengths)], "off")[0].div(2.0).sigmoid()


def test_a_teacher_of_the_same_features_hears_the_students_own(tmp_path):
    online, frontend = scene(tmp_path, augment={"mixup": MIXED, "masks": MASKS})
    features, lengths, targets = online(batch(), frontend, CPU, KEY)
    plain, _, labels = online.augmenter(batch(), frontend, CPU, KEY)
    assert torch.equal(features, plain)
    assert torch.equal(targets[:, :3], labels)
    assert torch.equal(targets[:, 3:], soft(online, features, lengths))
    # They are of the mixture itself, not mixtures of what was said of its parts.
    assert (labels > 0).sum() > 4


def test_another_teacher_makes_features_of_its_own_of_the_same_augmented_waveforms(tmp_path):
    teacher = {"mean": 1.0, "std": 2.0}
    augment = {"white_noise": {"probability": 1.0}, "masks": MASKS}
    online, frontend = scene(tmp_path, teacher=teacher, augment=augment)
    features, lengths, targets = online(batch(), frontend, CPU, KEY)
    clips = online.augmenter.change_inputs(batch(), frontend, CPU, KEY)
    own = Frontend("ast128", 64, 1.0, 2.0)(clips.values, torch.from_numpy(clips.lengths))
    torch.testing.assert_close(targets[:, 3:], soft(online, *own))
    assert not torch.allclose(targets[:, 3:], soft(online, features, lengths))


def test_features_are_mixed_alike_for_a_teacher_with_its_own(tmp_path):
    online, frontend = scene(tmp_path, teacher={"mean": 1.0, "std": 2.0}, augment={"mixup": MIXED})
    features, lengths, targets = online(batch(), frontend, CPU, KEY)
    # Mixing is linear, as is the normalisation: from the student's features follow the teacher's.
    raw = features * 2 * frontend.std + frontend.mean
    expected = soft(online, (raw - 1.0) / 4.0, lengths)
    torch.testing.assert_close(targets[:, 3:], expected, atol=1e-5, rtol=1e-5)


def test_a_teacher_of_another_preset_gets_the_waveforms(tmp_path, caplog):
    teacher = {"preset": "beats128", "target_frames": 64}
    caplog.set_level(logging.INFO)
    online, frontend = scene(tmp_path, teacher=teacher, augment={"masks": MASKS})
    assert "of the same augmented waveforms, without the student's masks_ast" in caplog.text
    _, _, targets = online(batch(), frontend, CPU, KEY)
    own = Frontend("beats128", 64)(batch()["inputs"], batch()["lengths"])
    torch.testing.assert_close(targets[:, 3:], soft(online, *own))
    with pytest.raises(ConfigError, match=r"preset beats128, but those of ast128 are stored: set"):
        scene(tmp_path, teacher=teacher, storage="stored")


def test_embeddings_follow_where_features_are_matched(tmp_path):
    distillation = {"teachers": [str(tmp_path / "teacher")], "mode": "online", "feature_weight": 1.0}
    online, frontend = scene(tmp_path, distillation=distillation)
    features, lengths, targets = online(batch(), frontend, CPU, KEY)
    assert targets.shape == (4, 3 + 3 + 24)
    assert torch.equal(targets[:, 6:], online.teachers([(features, lengths)], "off")[1])
    assert not targets.requires_grad
