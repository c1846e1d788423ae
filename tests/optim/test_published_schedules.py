"""The learning rates of the published recipes, written as configurations, against reference values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotag.configfile import load_config
from audiotag.optim.optimizers import build_optimizer
from audiotag.optim.schedules import build_schedule
from tests.optim.sections import optimizer_section, schedule_section
from tests.tiny import tiny_tagger

ROOT = Path(__file__).resolve().parents[2]
AST = json.loads((ROOT / "tests/data/ast/lr_schedules.json").read_text())
ESPNET = json.loads((ROOT / "tests/data/beats/espnet_lr.json").read_text())

AST_WARMUP = {"warmup_steps": 1000, "warmup_from": 0.0, "warmup_every": 50}


def ast_schedule(recipe, steps_per_epoch, **settings):
    section = schedule_section(
        name="multistep",
        first_milestone=recipe["milestone_start"],
        milestone_every=recipe["milestone_step"],
        decay=recipe["decay"],
        **settings,
    )
    return build_schedule(section, recipe["epochs"] * steps_per_epoch, steps_per_epoch)


@pytest.mark.parametrize("name", [name for name in AST if not name.startswith("warmup")])
def test_every_ast_recipe_has_the_published_rate_in_every_epoch(name):
    recipe = AST[name]
    schedule = ast_schedule(recipe, 1500, **(AST_WARMUP if recipe["warmup"] else {}))
    for epoch, expected in enumerate(recipe["lr_per_epoch"]):
        # The warm-up ends within the first epoch; its last update has the rate that a log shows.
        steps = [1500 * epoch, 1500 * epoch + 700] if epoch or not recipe["warmup"] else []
        for step in [*steps, 1500 * epoch + 1499]:
            assert recipe["base_lr"] * schedule(step) == pytest.approx(expected, rel=1e-12), (epoch, step)


@pytest.mark.parametrize(
    ("file", "name", "steps_per_epoch"),
    [("ast_full.yaml", "audioset_full", 162757), ("ast_balanced.yaml", "audioset_balanced", 1733)],
)
def test_the_configurations_of_audioset_have_the_published_rates(file, name, steps_per_epoch):
    config = load_config(ROOT / "egs/audioset/conf" / file)
    recipe = AST[name]
    assert config.training.epochs == recipe["epochs"]
    section, lr = config.schedule.model_dump(), config.optimizer.lr
    schedule = build_schedule(section, recipe["epochs"] * steps_per_epoch, steps_per_epoch)
    for update, rate in AST["warmup_rule_examples_base_lr_1e-5"]:
        assert lr * schedule(update) == pytest.approx(recipe["base_lr"] / 1e-5 * rate, rel=1e-12), update
    for epoch, expected in enumerate(recipe["lr_per_epoch"]):
        assert lr * schedule(steps_per_epoch * (epoch + 1) - 1) == pytest.approx(expected, rel=1e-12), epoch


def original_ast_rates(recipe, steps_per_epoch):
    """The rates of a loop like the original's: a scheduler stepped after epochs, and rates written over."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe["base_lr"])
    milestones = range(recipe["milestone_start"], recipe["epochs"] + 1, recipe["milestone_step"])
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, recipe["decay"])
    rates = []
    for _ in range(recipe["epochs"]):
        for _ in range(steps_per_epoch):
            if len(rates) <= 1000 and len(rates) % 50 == 0:
                optimizer.param_groups[0]["lr"] = recipe["base_lr"] * len(rates) / 1000
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 49, 50, 63, 100, 333, 1000])
@pytest.mark.parametrize("name", ["audioset_full", "audioset_balanced"])
def test_milestones_inside_the_staircase_act_as_in_the_original_loop(name, steps_per_epoch):
    recipe = {**AST[name], "epochs": 1 + 1200 // steps_per_epoch}
    schedule = ast_schedule(recipe, steps_per_epoch, **AST_WARMUP, warmup_undoes_decay=True)
    expected = original_ast_rates(recipe, steps_per_epoch)
    found = [recipe["base_lr"] * schedule(step) for step in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0)


def test_by_default_milestones_inside_the_staircase_last():
    schedule = ast_schedule(AST["audioset_full"], 300, **AST_WARMUP)
    # After epochs 2, 3 and 4, which end with updates 599, 899 and 1199.
    rates = [schedule(step) for step in (599, 600, 899, 900, 1000, 1200)]
    assert rates == [0.55, 0.3, 0.425, 0.225, 0.25, 0.125]


def test_espnet_restarts():
    section = schedule_section(
        name="cosine_restarts",
        first_cycle_steps=80000,
        warmup_steps=8000,
        warmup_from=0.16666666666666666,
        final_factor=0.16666666666666666,
    )
    schedule = build_schedule(section, 164 * 489, 489)
    longer = build_schedule(section, 100_000, 489)
    for sample in ESPNET:
        assert 3e-5 * longer(sample["update"]) == pytest.approx(sample["lr"], abs=1e-12), sample
        assert schedule(sample["update"]) == longer(sample["update"])


def test_distil_ast_is_linear_from_zero_with_a_ratio():
    section = schedule_section(name="linear", warmup_ratio=0.1, warmup_from=0.0)
    schedule = build_schedule(section, 1530, 153)
    assert [schedule(step) for step in (0, 153, 1530)] == [0, 1, 0]
    assert schedule(102) == pytest.approx(2 / 3)


def test_the_optimiser_of_espnets_beats():
    section = optimizer_section(name="adamw", lr=3e-5, betas=[0.9, 0.98], weight_decay=0.01, decay_all=True)
    (group,) = build_optimizer(section, tiny_tagger()).param_groups
    values = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
    assert values == {"lr": 3e-5, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01}


@pytest.mark.parametrize(("file", "lr"), [("ast_full.yaml", 1e-5), ("ast_balanced.yaml", 5e-5)])
def test_the_optimiser_of_the_published_ast(file, lr):
    config = load_config(ROOT / "egs/audioset/conf" / file)
    optimizer = build_optimizer(config.optimizer.model_dump(), tiny_tagger())
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    values = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
    assert values == {"lr": lr, "betas": (0.95, 0.999), "eps": 1e-8, "weight_decay": 5e-7}
    assert config.training.clip_norm is None
