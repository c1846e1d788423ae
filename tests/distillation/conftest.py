"""Two teachers of the small corpus' classes, one with features of its own."""

from __future__ import annotations

import pytest

from audiotag.data.splits import read_labels
from tests.conftest import Recipe
from tests.distillation.scenes import write_teacher


@pytest.fixture(scope="session")
def taught(recipe) -> Recipe:
    """The recipe with `teachers/a` and `teachers/b`."""
    labels = read_labels(recipe.folder / "data")
    write_teacher(recipe.folder / "teachers" / "a", labels)
    write_teacher(recipe.folder / "teachers" / "b", labels, seed=2, features={"mean": 0.0, "std": 3.0})
    return recipe
