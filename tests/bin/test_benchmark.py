"""The benchmark as a command, on a tiny model, with and without data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from audiotag.benchmarks.eagerbeats import build_eager_twin
from audiotag.benchmarks.twin import build_twin
from audiotag.bin.benchmark import parse_arguments
from audiotag.config import AstEncoder
from audiotag.errors import ConfigError
from audiotag.frontend import Frontend
from audiotag.stopwatch import Stopwatch, spread
from audiotag.tagger import Tagger
from tests.encoders.beats.reference import tiny_beats
from tests.tiny import tiny_labels, tiny_tagger

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
corpus: {dir: corpus, train_lists: [train_segments.csv], eval_lists: [eval_segments.csv], valid_share: 0}
features: {preset: ast128, target_frames: 64, storage: on_the_fly}
encoder: {name: ast, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 3, freq_stride: 16, time_stride: 12}
data: {batch_size: 4, num_workers: 0}
training: {amp: bf16}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"audiotag.bin.{module}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def benchmark(folder: Path, *arguments: str) -> tuple[str, dict]:
    """Output and figures of a short run."""
    short = ["--config", "config.yaml", "--steps", "2", "--rounds", "2", "--json", "figures.json"]
    done = run(folder, "benchmark", *short, "--device", "cpu", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "figures.json").read_text())


def assert_rate(rate: dict[str, float]) -> None:
    assert 0 < rate["lowest"] <= rate["median"] <= rate["highest"]


@pytest.mark.slow
def test_without_data_and_next_to_transformers(folder):
    output, figures = benchmark(folder, "--compare", "transformers", "--batch-size", "3")
    rates = figures["clips_per_s"]
    for kind in ("frontend", "forward", "train"):
        assert_rate(rates[kind])
    assert rates["data"] is None
    assert rates["together"] is None
    assert "labels.csv is missing" in figures["no_data"]
    assert "no data measured: " in output
    comparison = figures["comparison"]
    for kind in ("forward", "train"):
        for values in comparison[kind].values():
            assert_rate(values)
        assert set(comparison[kind]) == {"ours", "theirs", "ratio"}
        assert f"ratio ours / transformers, {kind}" in output
    # The two are the same model: any difference in size would make the ratio meaningless.
    assert comparison["parameters"] == figures["settings"]["parameters"]
    assert figures["settings"]["batch_size"] == 3
    assert figures["settings"]["amp"] == "bf16"
    memory = figures["peak_memory"]
    assert memory["kind"] == "peak resident size of the process"
    assert 10 < memory["forward_mib"] <= memory["train_mib"] < 100_000
    assert figures["environment"]["threads"] == 1
    assert figures["environment"]["torch"] == metadata.version("torch")


@pytest.mark.slow
def test_with_the_data_of_a_recipe(folder):
    corpus = ["--dest", "corpus", "--seed", "3", "--train-clips", "6", "--eval-clips", "2"]
    for module, arguments in (("synthesize", corpus), ("prepare", ["--config", "config.yaml"])):
        done = run(folder, module, *arguments)
        assert done.returncode == 0, done.stderr
    output, figures = benchmark(folder)
    for rate in figures["clips_per_s"].values():
        assert_rate(rate)
    assert figures["no_data"] is None
    assert figures["comparison"] is None
    assert "no data" not in output
    assert "ratio" not in output
    assert figures["settings"]["classes"] < 527


def test_only_an_ast_has_a_twin():
    other = AstEncoder.model_construct(name="zipformer")
    with pytest.raises(ConfigError, match="no model like encoder zipformer"):
        build_twin(tiny_tagger(), other)


@pytest.mark.slow
def test_next_to_attention_that_is_written_out(folder):
    sizes = "embed_dim: 16, depth: 2, num_heads: 2, conv_groups: 4, num_buckets: 32, max_distance: 64"
    (folder / "config.yaml").write_text(
        f"features: {{preset: beats128, storage: on_the_fly}}\nencoder: {{name: beats, {sizes}}}\n"
    )
    output, figures = benchmark(folder, "--compare", "eager", "--batch-size", "2")
    assert "ratio ours / eager, train" in output
    assert figures["comparison"]["parameters"] == figures["settings"]["parameters"]
    kept = figures["comparison"]["kept_mib"]
    assert kept["ours"] > 0.1 and kept["theirs"] > kept["ours"]
    assert "kept for the backward pass: ours" in output


@pytest.mark.parametrize("gated", [True, False])
def test_the_written_out_attention_is_the_same(gated):
    tagger = Tagger(Frontend("beats128"), tiny_beats(gated_bias=gated), tiny_labels(), None)
    twin = build_eager_twin(tagger)
    x, lengths = torch.randn(2, 200, 128), torch.tensor([200, 120])
    torch.testing.assert_close(twin(x, lengths), tagger(x, lengths), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="no plain code of encoder Ast"):
        build_eager_twin(tiny_tagger())


def test_bad_numbers_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--config", "config.yaml", "--rounds", "0"])
    with pytest.raises(SystemExit) as stopped:
        parse_arguments()
    assert stopped.value.code == 2
    assert "--rounds: expected a number from 1 on, found 0" in capsys.readouterr().err


def test_rates_count_clips_and_take_turns(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("audiotag.stopwatch.time.perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"), steps=5, rounds=3)
    assert watch.rate(lambda: 8) == {"median": 40, "lowest": 40, "highest": 40}
    calls = []

    def work(name: str, clips: int):
        return lambda: calls.append(name) or clips

    result = watch.compare(work("a", 6), work("b", 3))
    assert result["ratio"]["median"] == 2.0
    assert result["ours"]["median"] == 30
    assert "".join(calls) == "ab" + 5 * "a" + 10 * "b" + 10 * "a" + 5 * "b"


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
