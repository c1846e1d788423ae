"""A run whose numbers go wrong says where, and what it leaves shows the same again."""

from __future__ import annotations

import re

import pytest

from audiotag.training.checkpoint import load_checkpoint
from audiotag.training.divergence import read_dump

# Weights of 1e30 after the first update.
DIVERGING = ("optimizer.lr=1e30", "training.clip_norm=null", "training.epochs=2", "data.batch_size=3")
LINE = re.compile(
    r"error: update 2 was not made: (?P<finding>.+? \(clips .+?\)).* --replay (?P<dump>exp/[^\s;)]+)"
)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.slow
def test_a_dump_of_a_diverging_run_is_replayed(recipe, processes):
    name = f"diverging{processes}"
    accumulate = "training.accumulate=2"
    done = recipe.train(name, *DIVERGING, accumulate, "training.save_every_steps=1", processes=processes)
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: update"))
    if processes == 1:
        assert done.returncode == 5
    found = LINE.match(line)
    assert found and "last good checkpoint: step-1.pt" in line, line
    state = read_dump(recipe.folder / found["dump"])
    assert state["step"] == 2
    assert len(state["inputs"]) == 2
    clips = {clip for batch in state["inputs"] for clip in batch["ids"]}
    assert clips >= set(state["finding"]["ids"])
    names = {key[:end] for key in state["model"] for end in range(len(key)) if key[end] == "."}
    assert state["finding"]["module"] in names
    again = recipe.run("train", "--replay", found["dump"], "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == found["finding"]
    # What was saved before is good.
    for path in recipe.exp(name).glob("step-*.pt"):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path)["model"].values())


def test_a_file_that_is_no_dump_is_refused(recipe, finished):
    done = recipe.run("train", "--replay", "exp/finished/epoch-1.pt")
    assert done.returncode == 4
    assert "not a dump that this audiotag can replay" in done.stderr
