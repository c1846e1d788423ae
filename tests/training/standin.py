"""An encoder with what the Zipformer asks of training: a batch count, and a state beside the weights.

As a module it is the training command, with this encoder in place of the AST:
`python -m tests.training.standin --config ...`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiotag.encoders import registry
from audiotag.encoders.ast import Ast
from audiotag.errors import run_command


class StandIn(Ast):
    """An AST whose training depends on the batch count and on the batches that it has seen."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.batch_count: float | None = None
        self.seen = torch.zeros(())
        self.calls = 0

    def set_batch_count(self, count: float) -> None:
        self.batch_count = count

    def training_state(self) -> dict[str, Any]:
        return {"seen": self.seen, "calls": self.calls}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.seen, self.calls = state["seen"].clone(), state["calls"]

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        y, lengths = super().forward(x, lengths)
        if not self.training:
            return y, lengths
        assert self.batch_count is not None
        self.calls += 1
        self.seen = 0.9 * self.seen + 0.1 * x.detach().abs().mean().cpu()
        return y * (1.0 + 0.1 / (1.0 + self.batch_count)) + 0.01 * self.seen, lengths


def put_in() -> None:
    """Let `encoder.name: ast` mean this one."""
    registry.ENCODERS["ast"] = lambda target_frames, **settings: StandIn(
        input_frames=target_frames, **settings
    )


if __name__ == "__main__":
    from audiotag.bin.train import main

    put_in()
    run_command(main)
