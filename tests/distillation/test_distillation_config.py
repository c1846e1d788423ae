"""What a section `distillation` may not say, and what it has to do with stages."""

from __future__ import annotations

import pytest

from audiotag.config import Config
from audiotag.stagekeys import stage_keys, teacher_paths

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


def test_teachers_are_part_of_training_and_the_driver_knows_where_they_are(tmp_path, monkeypatch):
    teacher = tmp_path / "teacher.pt"
    monkeypatch.setenv("TEACHER", str(teacher))
    places = ["$TEACHER", "$NOT_SET", str(tmp_path)]
    config = Config.model_validate({"distillation": {"teachers": places}})
    assert teacher_paths(config) == [str(tmp_path)]
    keys, plain = stage_keys(config), stage_keys(Config())
    assert [stage for stage in keys if keys[stage] != plain[stage]] == ["5", "6", "7", "8"]
    teacher.write_bytes(b"weights")
    assert teacher_paths(config) == [str(teacher), str(tmp_path)]
    assert stage_keys(config) == keys  # the driver looks at the time of the files
