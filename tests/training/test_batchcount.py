"""The batch count that schedules inside an encoder go by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotag.config import Config
from audiotag.data.batching import BatchPlan
from audiotag.encoders import registry
from audiotag.encoders.ast import Ast
from audiotag.losses import build_loss
from audiotag.training.batchcount import BatchCount, set_batch_count
from audiotag.training.divergence import StepInput, dump, replay
from audiotag.training.position import Position
from tests.tiny import tiny_config, tiny_labels, tiny_tagger
from tests.training.standin import StandIn

VECTORS = Path(__file__).parents[1] / "data" / "zipformer" / "schedules.json"
DURATIONS = np.random.default_rng(3).uniform(1.0, 10.0, 101).astype(np.float32)


def counter(processes=1, rank=0, data=None, **training):
    data = data or {"batch_size": None, "max_duration_s": 40.0, "num_buckets": 3}
    config = Config.model_validate({"data": data, "training": training})
    plan = BatchPlan(
        DURATIONS,
        seed=5,
        world_size=processes,
        rank=rank,
        batch_size=config.data.batch_size,
        max_duration_s=config.data.max_duration_s,
        num_buckets=config.data.num_buckets,
    )
    return BatchCount(plan, config, processes)


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["adjusted_batch_count"])
def test_the_published_rule(case):
    made = counter(
        case["world_size"],
        data={"batch_size": None, "max_duration_s": case["max_duration"]},
        batch_count="configured",
        ref_duration_s=case["ref_duration"],
    )
    assert made.value(Position(step=case["batch_idx_train"])) == pytest.approx(case["value"], rel=1e-12)


def test_the_published_rule_looks_at_every_tenth_batch_of_an_epoch():
    made = counter(2, batch_count="configured", ref_duration_s=80.0)
    # 7 updates before this epoch, then those of the epoch, each of a batch on two processes.
    values = [made.value(Position(epoch=1, batch=2 * inside, step=7 + inside)) for inside in range(21)]
    assert values == [7.0] * 10 + [17.0] * 10 + [27.0]


def test_padding_to_the_longest_clip_of_a_batch_counts():
    made = counter()
    batches = made.plan.batches(4)
    expected = [len(batch) * DURATIONS[batch].max() for batch in batches]
    assert made.plan.padded_durations(4) == pytest.approx(expected, rel=1e-6)
    assert max(expected) <= 40.0001
    assert made.trained_ms(4, 0, len(batches)) == pytest.approx(1000 * sum(expected), abs=len(batches))
    parts = [made.trained_ms(4, first, first + 1) for first in range(len(batches))]
    assert sum(parts) == made.trained_ms(4, 0, len(batches))


def test_any_number_of_processes_has_trained_on_the_same():
    for first, end in ((0, 3), (3, 8)):
        assert len({counter(n, n - 1).trained_ms(2, first, end) for n in (1, 2, 4)}) == 1


def test_the_rules_differ():
    position = Position(step=30, trained_ms=1_200_000)
    assert counter().value(position) == 2.0
    assert counter(ref_duration_s=60.0).value(position) == 20.0
    assert counter(batch_count="updates").value(position) == 30.0


def test_a_run_that_did_not_count_is_estimated():
    made = counter()
    whole = made.trained_ms(3, 0, made.plan.num_base_batches(3))
    assert made.estimate_ms(3, 4) == 3 * whole + made.trained_ms(3, 0, 4)


def test_only_encoders_that_ask_are_told():
    assert not set_batch_count(tiny_tagger(), 3.0)
    tagger = tiny_tagger()
    tagger.encoder = StandIn(input_frames=64, num_mel_bins=128, embed_dim=16, depth=1, num_heads=2)
    assert set_batch_count(tagger, 3.0)
    assert tagger.encoder.batch_count == 3.0


def test_the_published_rule_needs_a_duration():
    with pytest.raises(ValueError, match=r"counts batches of data\.max_duration_s, which is not set"):
        Config.model_validate({"training": {"batch_count": "configured"}})


def test_a_replay_tells_the_encoder_what_it_was_told(tmp_path, monkeypatch):
    monkeypatch.setitem(
        registry.ENCODERS,
        "ast",
        lambda target_frames, **settings: StandIn(input_frames=target_frames, **settings),
    )
    tagger, config = tiny_tagger().train(), tiny_config()
    loss = build_loss(config["loss"], tiny_labels())
    batch = StepInput(torch.zeros(2, 64, 128), torch.full((2,), 64), torch.zeros(2, 3), ["a", "b"], 0)
    dump(tmp_path / "d.pt", tagger, loss, [batch], config=config, step=3, batch_count=7.0)
    told = []
    monkeypatch.setattr(StandIn, "set_batch_count", lambda self, count: told.append(count))
    monkeypatch.setattr(StandIn, "forward", Ast.forward)
    assert replay(tmp_path / "d.pt") is None
    assert told == [7.0]
