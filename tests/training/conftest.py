"""A finished run on the small corpus."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def finished(recipe) -> Path:
    """A finished run of four epochs."""
    done = recipe.train("finished")
    assert done.returncode == 0, done.stderr
    return recipe.exp("finished")
