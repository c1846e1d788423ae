"""Position embeddings for other grids, against what the original code makes of the same source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiotag.encoders.ast import NUM_SUMMARY_TOKENS, Ast, patch_grid
from audiotag.encoders.astpositions import adapt_positions, describe_adaptation

DATA = Path(__file__).parents[1] / "data" / "ast"
CASES = json.loads((DATA / "pos_embed.json").read_text())
GRIDS = {"deit24": (24, 24), "deit14": (14, 14), "as": (12, 101)}


@pytest.fixture(scope="module")
def vectors():
    return load_file(DATA / "pos_embed.safetensors")


@pytest.mark.parametrize("case", [*CASES["deit"], *CASES["audioset"]], ids=lambda case: case["name"])
def test_as_the_original_adapts_them(vectors, case):
    source, target = case["name"].split(".")[0], tuple(case["grid"])
    grid = patch_grid(case["input_fdim"], case["input_tdim"], 16, case["fstride"], case["tstride"])
    assert grid == target
    found = adapt_positions(vectors[f"{source}.source.pos_embed"], GRIDS[source], target, NUM_SUMMARY_TOKENS)
    expected = vectors[f"{case['name']}.pos_embed"]
    is_cropped = all(now <= before for now, before in zip(target, GRIDS[source], strict=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if is_cropped else 5e-5)


def test_an_encoder_adapts_its_own_and_says_so(vectors):
    source = Ast(1024, 128, embed_dim=8, depth=1, num_heads=2)
    target = Ast(512, 128, embed_dim=8, depth=1, num_heads=2)
    weights = {**source.state_dict(), "pos_embed": vectors["as.source.pos_embed"]}
    adapted, notes = target.adapt_weights(weights, source)
    torch.testing.assert_close(adapted["pos_embed"], vectors["as.f12_t50.pos_embed"], rtol=0, atol=0)
    assert notes == ["position embedding from 12 x 101 to 12 x 50 patches (time cropped)"]
    target.load_state_dict(adapted)
    assert source.adapt_weights(weights, source) == (weights, [])


def test_both_axes_are_named():
    assert describe_adaptation((24, 24), (12, 101)).endswith("(frequency cropped, time interpolated)")
