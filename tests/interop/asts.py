"""Small ASTs in the published formats, made in a test's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from audiotag.labels import Label, LabelTable

DATA = Path(__file__).parents[1] / "data" / "ast"
STRIDES = {"s10": (10, 10), "s16": (16, 16), "s12_10": (12, 10)}
FRAMES = 204
LABELS = LabelTable([Label(i, f"/m/{i:02d}", f"sound {i}") for i in range(10)])

Tensors = dict[str, torch.Tensor]


def reference() -> Tensors:
    """The small reference models, their input and their logits."""
    return load_file(DATA / "tiny_model.safetensors")


def original_state(case: str, prefix: str = "module.") -> Tensors:
    """The weights of a reference model as the original code saves them."""
    start = f"{case}.state."
    found = {name: value for name, value in reference().items() if name.startswith(start)}
    return {prefix + name.removeprefix(start): value for name, value in found.items()}


def save_original(folder: Path, case: str, prefix: str = "module.", state: Tensors | None = None) -> Path:
    """A file of a reference model, named as published ones are."""
    path = folder / "tiny_{}_{}_0.4593.pth".format(*STRIDES[case])
    torch.save(original_state(case, prefix) if state is None else state, path)
    return path


def random_deit(side: int, width: int = 8, depth: int = 2, positions: torch.Tensor | None = None) -> Tensors:
    """Weights of a distilled DeiT in timm's names, with ten classes of images."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    state = {
        "cls_token": tensor(1, 1, width),
        "pos_embed": tensor(1, side**2 + 2, width) if positions is None else positions,
        "dist_token": tensor(1, 1, width),
        "patch_embed.proj.weight": tensor(width, 3, 16, 16),
        "patch_embed.proj.bias": tensor(width),
        "norm.weight": tensor(width),
        "norm.bias": tensor(width),
        "head.weight": tensor(10, width),
        "head.bias": tensor(10),
        "head_dist.weight": tensor(10, width),
        "head_dist.bias": tensor(10),
    }
    shapes = {"norm1": [], "norm2": [], "attn.qkv": [3, 1], "attn.proj": [1, 1]}
    shapes |= {"mlp.fc1": [4, 1], "mlp.fc2": [1, 4]}
    for index in range(depth):
        for name, factors in shapes.items():
            rows = factors[0] if factors else 1
            columns = [factors[1] * width] if factors else []
            state[f"blocks.{index}.{name}.weight"] = tensor(rows * width, *columns)
            state[f"blocks.{index}.{name}.bias"] = tensor(rows * width)
    return state
