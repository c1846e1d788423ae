"""What an encoder remembers of its training beside its weights, in checkpoints.

Such encoders (Zipformer, whose penalties are applied the more seldom the less they are needed) have methods
`training_state() -> dict` and `load_training_state(dict)`. It depends on the batches, which each process has
of its own: a checkpoint holds that of every process.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from audiotag.distributed import World
from audiotag.training.checkpointwriter import snapshot

logger = logging.getLogger(__name__)

KEY = "encoder_training"


def gather_training_state(tagger: nn.Module, world: World) -> dict[str, Any]:
    """What a checkpoint adds: the states by process; nothing for an encoder without. All must ask."""
    if not hasattr(tagger.encoder, "training_state"):
        return {}
    return {KEY: world.gather(snapshot(tagger.encoder.training_state()))}


def restore_training_state(tagger: nn.Module, state: dict[str, Any], world: World) -> None:
    """Go back to the state of this process in a checkpoint; of the first, if there were fewer processes or
    more."""
    states = state.get(KEY)
    if not hasattr(tagger.encoder, "load_training_state"):
        return
    if not states:
        logger.warning("the checkpoint holds no state of the encoder's training: that begins anew")
        return
    tagger.encoder.load_training_state(states[world.rank if len(states) == world.size else 0])
