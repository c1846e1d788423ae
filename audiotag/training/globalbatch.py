"""The batches of an update over all processes: the same effective batch on any number of them."""

from __future__ import annotations

from audiotag.config import Config
from audiotag.errors import ConfigError


def share_batches(config: Config, processes: int) -> Config:
    """The configuration with `training.accumulate` as it follows from `training.batches_per_update`.

    The batches of an epoch are numbered over all processes, so that an update of N batches has the same N
    whether one process takes all of them or each of N takes one.
    """
    wanted = config.training.batches_per_update
    if wanted is None:
        return config
    each, rest = divmod(wanted, processes)
    if rest:
        raise ConfigError(
            f"training.batches_per_update is {wanted}, which {processes} processes cannot share evenly: take "
            f"another number of processes, or a multiple of {processes} and a smaller data.batch_size (or "
            "data.max_duration_s)"
        )
    return config.model_copy(update={"training": config.training.model_copy(update={"accumulate": each})})
