"""What makes a model's training faster or smaller without changing what it computes: compilation of the model
or of its blocks, and activations that are computed a second time in place of being kept.

Both act on the model in place: its parameters, their names and its state dict stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audiotag.errors import ConfigError
from audiotag.tagger import Tagger

# A block is compiled for training and evaluation, one size of batch and any, with and without dropped paths,
# and once more for the last one. Beyond the limit, 8 by default, torch goes on without compiling.
RECOMPILE_LIMIT = 64


def accelerate(tagger: Tagger, *, compile: str = "off", activation_checkpointing: bool = False) -> None:
    """Compile a tagger, and let its encoder's blocks keep only their inputs for the backward pass.

    Args:
        tagger: changed in place; to be done once, before it is wrapped for several processes.
        compile: `off`; `model`, all from features to logits at once; or `blocks`, each of the encoder's
            blocks, which share what was compiled where they are alike.
        activation_checkpointing: blocks in training mode compute their activations again, with the same
            random numbers, when their gradients are wanted. In evaluation nothing changes.
    """
    if activation_checkpointing:
        for block in encoder_blocks(tagger, "training.activation_checkpointing"):
            block.forward = Recomputed(block.forward)
    if compile == "off":
        return
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, RECOMPILE_LIMIT)
    if compile == "model":
        tagger.compile()
        return
    for block in encoder_blocks(tagger, "training.compile: blocks"):
        block.compile()


def encoder_blocks(tagger: Tagger, key: str) -> Iterable[nn.Module]:
    """The blocks of the tagger's encoder, for a key of the configuration that needs them."""
    blocks = getattr(tagger.encoder, "blocks", None)
    if not blocks:
        raise ConfigError(
            f"{key} needs an encoder made of blocks, which {type(tagger.encoder).__name__} is not"
        )
    return blocks


class Recomputed:
    """The forward of a module whose activations are computed again in the backward pass.

    Args:
        forward: the module's own. Being a bound method, it follows the module into copies.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self.forward = forward

    def __call__(self, *inputs: Tensor, **settings: int | None) -> Tensor:
        """The module's output."""
        if not (self.forward.__self__.training and torch.is_grad_enabled()):
            return self.forward(*inputs, **settings)
        return checkpoint(self.forward, *inputs, use_reentrant=False, preserve_rng_state=True, **settings)
