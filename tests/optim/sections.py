"""Config sections as the code gets them, complete with all defaults."""

from __future__ import annotations

from typing import Any

from audiotag.config import Config


def optimizer_section(**settings: Any) -> dict[str, Any]:
    """A complete `optimizer` section."""
    # Not every optimiser leaves clipping to the training loop.
    whole = {"optimizer": settings, "training": {"clip_norm": None}}
    return Config.model_validate(whole).optimizer.model_dump()


def schedule_section(**settings: Any) -> dict[str, Any]:
    """A complete `schedule` section."""
    return Config.model_validate({"schedule": settings}).schedule.model_dump()
