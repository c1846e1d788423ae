"""Care for the scale of fp16, which may sink so far that gradients vanish below what fp16 can hold.

As icefall does it: every 100th update of an epoch a scale below 8 is doubled, every 400th one below 32; below
0.01 something is about to go wrong, below 0.00001 it has.
"""

from __future__ import annotations

import logging

import torch

from audiotag.errors import TrainingError

logger = logging.getLogger(__name__)

OFTEN, SELDOM = 100, 400
LIFTED_OFTEN, LIFTED_SELDOM = 8.0, 32.0
WORRYING, HOPELESS = 0.01, 1e-5


class ScalerCare:
    """Looks after a scaler.

    Args:
        scaler: of the loss.
        wanted: `training.grad_scaler.lift`.
    """

    def __init__(self, scaler: torch.amp.GradScaler, wanted: bool) -> None:
        self.scaler = scaler
        self.wanted = wanted and scaler.is_enabled()
        self._warned = False

    def after_update(self, number: int) -> bool:
        """Do what is due after an update; returns whether to save a checkpoint, which it asks for once.

        Args:
            number: of the update in its epoch, from 0.
        """
        if not self.wanted or number % OFTEN != 0:
            return False
        scale = self.scaler.get_scale()
        if scale < LIFTED_OFTEN or (scale < LIFTED_SELDOM and number % SELDOM == 0):
            self.scaler.update(2.0 * scale)
        if scale < HOPELESS:
            raise TrainingError(
                f"the scale of fp16 has sunk to {scale:g}, where gradients are lost: go on from an earlier "
                "checkpoint (--resume) with training.amp bf16, or a lower optimizer.lr"
            )
        if scale < WORRYING and not self._warned:
            logger.warning(
                "the scale of fp16 has sunk to %g: gradients overflow again and again; a checkpoint of this "
                "moment is saved, and training ends should it sink below %g",
                scale,
                HOPELESS,
            )
            self._warned = True
            return True
        return False
