"""Reading configurations: includes, overrides, refusals; every YAML file of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from audiotag.config import Config
from audiotag.configensemble import Ensemble
from audiotag.configfile import dump_yaml, load_config, sections_in, walk_keys
from audiotag.configtable import reference_table
from audiotag.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
ALL_YAML_FILES = sorted([*ROOT.glob("conf/**/*.yaml"), *ROOT.glob("egs/*/conf/**/*.yaml")])
ENSEMBLES = [path for path in ALL_YAML_FILES if path.name.startswith("ensemble_")]
YAML_FILES = [path for path in ALL_YAML_FILES if path not in ENSEMBLES and path.name != "slurm.yaml"]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_loads_and_survives_a_round_trip(path, tmp_path):
    config = load_config(path)
    again = load_config(write(tmp_path, "resolved.yaml", dump_yaml(config)))
    assert again == config


@pytest.mark.parametrize("path", ENSEMBLES, ids=lambda path: path.stem)
def test_every_ensemble_loads(path):
    assert load_config(path, kind=Ensemble).title


def test_there_are_yaml_files():
    assert ROOT / "egs/mini/conf/ast_tiny.yaml" in YAML_FILES
    assert ROOT / "egs/audioset/conf/ensemble_ast_m.yaml" in ENSEMBLES


def test_every_key_is_documented():
    for key, field, _ in (*walk_keys(), *walk_keys(Ensemble)):
        assert field.description and field.description.rstrip().endswith("."), key
    for _, field, _ in (*walk_keys(), *walk_keys(Ensemble)):
        for section in sections_in(field.annotation):
            assert section.__doc__


def test_the_readme_has_the_reference_of_all_keys():
    assert reference_table() in (ROOT / "README.md").read_text(encoding="utf-8")
    assert reference_table(Ensemble) in (ROOT / "docs" / "ensembles.md").read_text(encoding="utf-8")


def test_includes_are_merged_in_order_and_the_file_itself_wins(tmp_path):
    write(tmp_path, "base/a.yaml", "seed: 1\ntraining: {epochs: 3, clip_norm: 2.0}\n")
    write(tmp_path, "base/b.yaml", "seed: 2\ntitle: from b\n")
    path = write(tmp_path, "c.yaml", "include: [base/a.yaml, base/b.yaml]\ntraining: {epochs: 7}\n")
    config = load_config(path, ["title=set: on the command line"])
    assert (config.seed, config.training.epochs, config.training.clip_norm) == (2, 7, 2.0)
    assert config.title == "set: on the command line"


def test_another_name_replaces_a_section_whole(tmp_path):
    write(tmp_path, "a.yaml", "schedule: {name: cosine, final_factor: 0.5, warmup_steps: 9}\n")
    config = load_config(write(tmp_path, "b.yaml", "include: a.yaml\nschedule: {name: constant}\n"))
    assert config.schedule.name == "constant"
    assert config.schedule.warmup_steps == 0


def test_numbers_may_be_written_as_people_write_them(tmp_path):
    config = load_config(write(tmp_path, "a.yaml", "optimizer: {lr: 1e-4}\n"), ["training.clip_norm=null"])
    assert config.optimizer.lr == 1e-4
    assert config.training.clip_norm is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {epochs: 3}", "unknown key 'trainig' (did you mean 'training'?)"),
        ("training: {epocs: 3}", "unknown key 'training.epocs' (did you mean 'training.epochs'?)"),
        ("schedule: {name: cosine, warmup_step: 3}", "(did you mean 'schedule.warmup_steps'?)"),
        ("epochs: 3", "unknown key 'epochs' (did you mean 'training.epochs'?)"),
        ("optimizer: {name: adm}", "optimizer.name is 'adm', expected one of 'adamw', 'adam'"),
        ("optimizer: {lrr: 3}", "unknown key 'optimizer.lrr' (did you mean 'optimizer.lr'?)"),
        ("training: {epochs: many}", "training.epochs: Input should be a valid integer"),
        ("training: {epochs: 0}", "training.epochs: Input should be greater than or equal to 1, found 0"),
        ("encoder: {num_heads: 7}", "num_heads 7 does not divide embed_dim 768"),
        ("data: {batch_size: null}", "one of batch_size and max_duration_s is needed"),
        ("seed: 1\nseed: 2", "key 'seed' is given twice"),
        ("seed: [1", "not valid YAML"),
        ("- seed", "expected keys and values, found list"),
        ("include: nowhere.yaml", "included file not found: nowhere.yaml"),
        ("include: bad.yaml", "includes itself"),
        ("x: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path, text, message):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_mistake_in_an_included_file_names_that_file(tmp_path):
    write(tmp_path, "inner.yaml", "training: {epocs: 3}\n")
    with pytest.raises(ConfigError, match=r"inner\.yaml: unknown key 'training\.epocs'"):
        load_config(write(tmp_path, "outer.yaml", "include: inner.yaml\nseed: 3\n"))


def test_a_mistake_in_an_override_names_the_override(tmp_path):
    path = write(tmp_path, "a.yaml", "seed: 3\n")
    with pytest.raises(ConfigError, match=r"--set training\.epocs=3: unknown key"):
        load_config(path, ["training.epocs=3"])
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load_config(path, ["training.epochs"])


def test_the_command_prints_one_line_and_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "audiotag.bin.config", "--print-config", "--config"]
    done = subprocess.run([*command, str(tmp_path / "no.yaml")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"error: config file not found: {tmp_path / 'no.yaml'}\n"
    done = subprocess.run(
        [*command, str(tmp_path / "no.yaml"), "--verbose"], capture_output=True, text=True, cwd=ROOT
    )
    assert "Traceback" in done.stderr


def test_print_config_gives_yaml_that_loads_to_the_same(tmp_path):
    command = [sys.executable, "-m", "audiotag.bin.config", "--set", "training.epochs=77"]
    done = subprocess.run([*command, "--print-config"], capture_output=True, text=True, cwd=ROOT, check=True)
    config = load_config(write(tmp_path, "printed.yaml", done.stdout))
    assert config.training.epochs == 77
    assert config == Config.model_validate(yaml.safe_load(done.stdout))


def test_the_schema_describes_all_sections(tmp_path):
    path = tmp_path / "schema.json"
    subprocess.run([sys.executable, "-m", "audiotag.bin.config", "--schema", str(path)], check=True, cwd=ROOT)
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(schema["properties"]) == set(Config.model_fields) | {"include"}
    assert schema["$defs"]["AdamW"]["properties"]["lr"]["description"]


def test_stage_keys_change_with_what_the_stage_reads_and_only_then(tmp_path):
    def keys(*overrides):
        done = subprocess.run(
            [sys.executable, "-m", "audiotag.bin.config", "--stage-keys"]
            + [word for override in overrides for word in ("--set", override)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        return dict(line.split() for line in done.stdout.splitlines())

    base = keys()
    assert keys() == base

    def changed(*overrides):
        now = keys(*overrides)
        return [stage for stage in "12345678" if now[stage] != base[stage]]

    assert changed("corpus.valid_seed=3") == ["1", "2", "4", "5", "6", "7", "8"]
    assert changed("features.storage=on_the_fly") == ["2", "3", "4", "5", "6", "7", "8"]
    assert changed("optimizer.lr=0.5") == ["5", "6", "7", "8"]
    assert changed("evaluation.avg=2") == ["6", "7", "8"]
    assert changed("evaluation.splits=[valid]") == ["6", "7", "8"]
    assert changed("title=x") == ["7"]
    assert changed("data.num_workers=7") == changed("training.log_every=3") == []
    (tmp_path / "eval_segments.csv").write_text("# one", encoding="utf-8")
    one = keys(f"corpus.dir={tmp_path}")
    (tmp_path / "eval_segments.csv").write_text("# two", encoding="utf-8")
    assert keys(f"corpus.dir={tmp_path}")["1"] != one["1"]


def test_words_that_yaml_takes_for_booleans_stay_words(tmp_path):
    path = write(tmp_path, "a.yaml", "training: {amp: off, tf32: false}\n")
    assert load_config(path).training.amp == "off"
    assert load_config(path).training.tf32 is False
    assert load_config(path, ["training.amp=off"]).training.amp == "off"


def test_naming_the_default_choice_keeps_what_an_included_file_set(tmp_path):
    write(tmp_path, "base.yaml", "optimizer: {lr: 5e-4}\nencoder: {embed_dim: 192}\n")
    path = write(tmp_path, "a.yaml", "include: base.yaml\noptimizer: {name: adamw, weight_decay: 0.1}\n")
    config = load_config(path, ["encoder.name=ast"])
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (5e-4, 0.1)
    assert config.encoder.embed_dim == 192
    assert load_config(path, ["optimizer.name=adam"]).optimizer.lr == 1e-4


def test_merge_keys_and_empty_sections(tmp_path):
    text = "encoder: &small {embed_dim: 48, num_heads: 3}\ntraining:\n"
    config = load_config(write(tmp_path, "a.yaml", text))
    assert (config.encoder.embed_dim, config.training.epochs) == (48, 10)
    text = "features: {<<: {target_frames: 100}, preset: ast128}\n"
    assert load_config(write(tmp_path, "b.yaml", text)).features.target_frames == 100


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("augment.noise.snr_db=[20, 10]", "snr_db must be [lowest, highest]"),
        ("seed=99999999999999999999", "seed: Input should be less than 4294967296"),
        ("evaluation.avg=11", "evaluation.avg 11 is more than training.epochs 10"),
        ("evaluation.splits=[]", "at least 1 item"),
        ("features.mean=1.0", "mean and std must be given together"),
    ],
)
def test_values_that_would_fail_later_are_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)


def test_fewer_checkpoints_than_are_averaged_are_refused():
    with pytest.raises(ConfigError, match=r"keep_last 2 keeps too few checkpoints for evaluation\.avg 3"):
        load_config(None, ["training.keep_last=2", "evaluation.avg=3"])


def test_masks_without_a_name_are_of_the_default_form(tmp_path):
    config = load_config(write(tmp_path, "a.yaml", "augment: {masks: {freq_width: 20}}"))
    assert config.augment.masks.name == "zipformer"
    with pytest.raises(ConfigError, match=r"unknown key 'augment.masks.frq_width'.*freq_width"):
        load_config(write(tmp_path, "a.yaml", "augment: {masks: {frq_width: 20}}"))


def test_sources_are_null_or_some(tmp_path):
    with pytest.raises(ConfigError, match=r"data.sources"):
        load_config(write(tmp_path, "a.yaml", "data: {sources: []}"))
