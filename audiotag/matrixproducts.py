"""How precisely a GPU multiplies matrices of float32."""

from __future__ import annotations

import torch


def allow_tf32(allowed: bool) -> None:
    """Whether factors may be rounded to TF32, in products and in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
