"""What a section `distillation` may not say, and what it has to do with stages."""

from __future__ import annotations

import os

import pytest

from audiotag.config import Config
from audiotag.stagekeys import stage_keys

TEACHER = {"teachers": ["teacher"]}


@pytest.mark.parametrize(
    ("section", "others", "message"),
    [
        ({"teachers": []}, {}, "at least 1 item"),
        ({"weights": [1.0, 2.0]}, {}, "weights has 2 numbers for 1 teachers"),
        ({"feature_weight": 1.0}, {}, "embeddings, which are not stored: set mode to online"),
        (
            {"teachers": ["a", "b"], "mode": "online", "feature_weight": 1.0},
            {},
            "embeddings with those of one teacher, found 2",
        ),
        ({"alpha": 1.0}, {}, "nothing is learnt from the teachers"),
        ({"temperature": 0.0}, {}, "greater than 0"),
        ({}, {"loss": {"name": "ce"}}, "set distillation.form to softmax"),
        (
            {"mode": "online"},
            {"data": {"max_duration_s": "auto"}},
            "how much memory distillation.mode online",
        ),
    ],
)
def test_combinations_without_sense_are_refused(section, others, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"distillation": {**TEACHER, **section}, **others})


def test_what_makes_sense_is_accepted():
    Config.model_validate({"distillation": {**TEACHER, "form": "softmax"}, "loss": {"name": "ce"}})
    Config.model_validate(
        {"distillation": {**TEACHER, "mode": "online", "alpha": 1.0, "feature_weight": 1.0}}
    )


def test_a_changed_teacher_redoes_training_and_what_follows(tmp_path, monkeypatch):
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes(b"one")
    monkeypatch.setenv("TEACHER", str(teacher))
    config = Config.model_validate({"distillation": {"teachers": ["$TEACHER"]}})
    before, plain = stage_keys(config), stage_keys(Config())
    assert before == stage_keys(config)
    os.utime(teacher, ns=(1, 1))
    after = stage_keys(config)
    for changed in (after, plain):
        assert [stage for stage in before if before[stage] != changed[stage]] == ["5", "6", "7", "8"]
    (tmp_path / "folder").mkdir()
    folder = Config.model_validate({"distillation": {"teachers": [str(tmp_path / "folder")]}})
    empty = stage_keys(folder)
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"weights")
    assert stage_keys(folder)["5"] != empty["5"]
