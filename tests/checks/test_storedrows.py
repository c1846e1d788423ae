"""Room for what training stores of every clip."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.checks.space import ModelSize, stored_rows
from audiotag.checks.storedrows import planned_rows
from audiotag.configfile import load_config
from audiotag.data.splits import open_split

WIDTH, CLASSES = 16, 7


@pytest.fixture
def counts(recipe) -> dict[str, int]:
    """Clips by split."""
    where = {"preset": "ast128", "storage": "on_the_fly"}
    return {split: len(open_split(recipe.folder / "data", split, **where)) for split in ("train", "valid")}


def planned(recipe, *overrides: str):
    config = load_config(recipe.folder / "config.yaml", [*overrides])
    return planned_rows(config, recipe.folder / "data", CLASSES, WIDTH)


def test_teachers_scores_are_there_twice_for_a_moment(recipe, counts):
    teacher = "distillation.teachers=[somewhere]"
    assert planned(recipe) == {}
    assert planned(recipe, teacher) == {"teachers' scores": 2 * counts["train"] * CLASSES * 2}
    assert planned(recipe, teacher, "distillation.mode=online") == {}
    other = f"data.sources=[{{}}, {{data_dir: {recipe.folder / 'data'}}}]"
    assert planned(recipe, teacher, other) == {"teachers' scores": 4 * counts["train"] * CLASSES * 2}


def test_embeddings_of_train_and_valid(recipe, counts):
    train, valid = (counts[split] * WIDTH * 4 for split in ("train", "valid"))
    assert planned(recipe, "encoder.freeze=true") == {"embeddings": 2 * train + valid}
    assert planned(recipe, "encoder.freeze=true", "evaluation.window_s=1") == {"embeddings": 2 * train}


def test_stores_that_are_there_need_no_room(recipe, counts):
    folder = recipe.folder / "data" / "teacher" / "model-0123"
    folder.mkdir(parents=True)
    try:
        np.save(folder / "scores.npy", np.zeros((counts["train"], CLASSES), np.float16))
        assert planned(recipe, "distillation.teachers=[somewhere]") == {"teachers' scores": 0}
        np.save(folder / "scores.npy", np.zeros((counts["train"] - 30, CLASSES), np.float16))
        assert planned(recipe, "distillation.teachers=[somewhere]") != {"teachers' scores": 0}
    finally:
        (folder / "scores.npy").unlink()
        folder.rmdir()
        folder.parent.rmdir()


def test_clips_that_are_not_listed_yet(recipe, tmp_path):
    config = load_config(recipe.folder / "config.yaml", ["encoder.freeze=true"])
    assert stored_rows(config, tmp_path, ModelSize(1, CLASSES, WIDTH)) == (
        0.0,
        ", scores or embeddings of clips unknown yet",
    )
