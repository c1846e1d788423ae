"""The AST's benchmark beside transformers: sizes, the same weights, and the figures of a short run."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from torch import nn

from audiotag.benchmarks import ast
from audiotag.bin import benchmark_ast
from audiotag.configfile import load_config
from audiotag.errors import ConfigError, TrainingError
from audiotag.stopwatch import PeakMemory, Stopwatch

CONFIG = """
features: {preset: ast128, target_frames: 64}
encoder: {name: ast, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 3, freq_stride: 16, time_stride: 12}
"""
CPU = torch.device("cpu")
# Of the published models: AudioSet's 527 classes, 1024 frames.
TOKENS = {10: 1214, 12: 852, 14: 659, 16: 514}
PARAMETERS = {10: 86_594_063, 12: 86_316_047, 14: 86_167_823, 16: 86_056_463}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    return load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("stride", ast.STRIDES)
def test_sizes_are_those_of_the_published_models(stride):
    config = load_config(None, ["encoder.name=ast", "features.preset=ast128", "features.target_frames=1024"])
    sizes = ast.sizes_of(config, stride)
    assert (sizes["tokens"], sizes["parameters"]) == (TOKENS[stride], PARAMETERS[stride])
    # Three products for each parameter of the blocks and token, two operations each; attention comes on top.
    assert 1.0 < sizes["training_flops"] / (6 * 85e6 * TOKENS[stride]) < 1.4


def test_both_are_the_same_model(config):
    assert ast.compare_logits(config, CPU, 3) < 1e-5
    tagger, twin = ast.make_pair(config, CPU)
    assert ast.count_parameters(tagger) == ast.count_parameters(twin)


def test_other_weights_are_noticed(config, monkeypatch):
    def spoilt(*arguments):
        tagger, twin = make_pair(*arguments)
        nn.init.normal_(twin.model.classifier.dense.bias)
        return tagger, twin

    make_pair = ast.make_pair
    monkeypatch.setattr(ast, "make_pair", spoilt)
    with pytest.raises(TrainingError, match="they are not the same model"):
        ast.compare_logits(config, CPU, 1)


def test_ours_and_theirs_take_turns(monkeypatch):
    calls: list[str] = []
    wall, cpu = iter(range(1000)), iter(range(0, 3000, 3))
    monkeypatch.setattr("audiotag.stopwatch.time.perf_counter", lambda: next(wall))
    monkeypatch.setattr("audiotag.benchmarks.ast.time.process_time", lambda: next(cpu))

    def work(name: str, clips: int):
        return lambda: calls.append(name) or clips

    result = ast.take_turns(work("a", 6), work("b", 3), Stopwatch(CPU, steps=2, rounds=3))
    assert "".join(calls) == "ab" + "aabb" + "bbaa" + "aabb"
    assert (
        result["ours"]["median"] == 12
        and result["ratio"]["median"] == 2
        and result["cpu_ratio"]["median"] == 1
    )


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_figures(config, tmp_path, monkeypatch, capsys):
    given = ["--config", str(tmp_path / "config.yaml"), "--batch-size", "2", "--rounds", "2", "--amp", "bf16"]
    given += ["--compile", "off", "--device", "cpu", "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["benchmark_ast", *given])
    much = torch.ones(2**28)  # what this process holds, or held, is not part of what the others need
    benchmark_ast.main()
    assert PeakMemory(CPU).read_mib() > much.nbytes / 2**20
    output = capsys.readouterr().out
    assert re.search(r"^\| 16 \| 8 x 4 \| 34 \|", output, re.MULTILINE)
    for kind in ("forward", "training step"):
        numbers = 4 * r"[\d.,]+ \([\d.,]+ to [\d.,]+\) \| "
        row = rf"^\| {kind}, eager \| bf16 \| {numbers}[\d,]+ \| [\d,]+ \|$"
        assert re.search(row, output, re.MULTILINE), output
    figures = json.loads((tmp_path / "figures.json").read_text())
    for row in figures["speed"]:
        assert row["ours"]["median"] > 0 and row["mfu"] == {"ours": None, "theirs": None}
        assert all(50 < row["memory_mib"][who] < 1024 for who in ("ours", "theirs"))


def test_only_an_ast_has_such_a_twin(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("encoder: {name: zipformer}\nfeatures: {preset: icefall80}\n")
    monkeypatch.setattr(sys, "argv", ["benchmark_ast", "--config", str(tmp_path / "config.yaml")])
    with pytest.raises(ConfigError, match=r"encoder\.name is zipformer: this benchmark is about ast"):
        benchmark_ast.main()
