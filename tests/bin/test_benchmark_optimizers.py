"""The benchmark of optimisers as a command."""

from __future__ import annotations

import json
import re


def test_the_command_prints_a_table(recipe):
    shapes = recipe.folder / "shapes.json"
    shapes.write_text(json.dumps({"parameters": [["a", [3, 4]], ["b", [4]], ["c", []], ["d", [3, 4]]]}))
    done = recipe.run(
        "benchmark_optimizers",
        *("--shapes", str(shapes), "--updates", "2", "--device", "cpu"),
        *("--set", "optimizer.name=scaled_adam", "--set", "training.clip_norm=null"),
    )
    assert done.returncode == 0, done.stderr
    assert "29 parameters in 4 tensors" in done.stdout
    for name in ("scaled_adam", "adamw"):
        assert re.search(rf"^\| {name} \| [\d.]+ \([\d.]+ to [\d.]+\) \|$", done.stdout, re.MULTILINE)
