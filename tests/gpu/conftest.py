"""What the GPU tests share: the device, exact arithmetic, and the tiny reference AST.

They need torch, numpy, safetensors and lhotse only, so that they also run where little else is installed:
`python -m pytest tests/gpu`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiotag.encoders.ast import Ast
from audiotag.frontend import Frontend
from audiotag.labels import Label, LabelTable
from audiotag.tagger import Tagger

DATA = Path(__file__).parents[1] / "data"
STRIDES = {"s10": (10, 10), "s16": (16, 16), "s12_10": (12, 10)}
FRAMES = 204


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact_products(device) -> Iterator[None]:
    """Matrix products and convolutions without TF32, whose 10-bit mantissa would hide real differences."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, torch.Tensor]]:
    """Reads a file of reference vectors by its name under tests/data."""
    return lambda name: load_file(DATA / f"{name}.safetensors")


@pytest.fixture(scope="session")
def reference(vectors) -> dict[str, torch.Tensor]:
    """Weights, inputs, activations and gradients of the tiny AST."""
    return vectors("ast/tiny_model")


def our_names(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under a prefix by the tagger's names, without the original's unused heads."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix) and not name.startswith(f"{prefix}v.head"):
            renamed = re.sub(r"^v\.", "encoder.", name[len(prefix) :])
            found[renamed.replace("mlp_head.0.", "head_norm.").replace("mlp_head.1.", "head.")] = tensor
    return found


@pytest.fixture(params=STRIDES)
def case(request) -> str:
    return request.param


@pytest.fixture
def tagger(case, reference, device) -> Tagger:
    """The tiny reference AST of a case, on the GPU."""
    encoder = Ast(
        input_frames=FRAMES,
        num_mel_bins=128,
        embed_dim=48,
        depth=2,
        num_heads=3,
        freq_stride=STRIDES[case][0],
        time_stride=STRIDES[case][1],
    )
    labels = LabelTable([Label(i, f"/m/{i}", f"class {i}") for i in range(10)])
    model = Tagger(Frontend("ast128", target_frames=FRAMES), encoder, labels, head_norm_eps=1e-5)
    model.load_state_dict(our_names(reference, f"{case}.state."))
    return model.to(device).eval()


@pytest.fixture
def expected_gradients(case, reference) -> dict[str, torch.Tensor]:
    """Gradients of the case by parameter; empty where none were recorded."""
    return our_names(reference, f"{case}.grad.")
