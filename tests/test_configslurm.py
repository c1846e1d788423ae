"""What jobs ask a cluster for: conf/slurm.yaml, its mistakes, and the options of sbatch that come of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audiotag.configslurm import (
    STAGES,
    Resources,
    SlurmSettings,
    load_slurm_settings,
    sbatch_options,
    seconds,
)
from audiotag.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def load(tmp_path):
    def load_text(text: str) -> SlurmSettings:
        path = tmp_path / "slurm.yaml"
        path.write_text(text)
        return load_slurm_settings(path)

    return load_text


def test_stages_replace_single_keys(load):
    settings = load("partition: cpu\ncpus: 4\nstages: {train: {nodes: 1-4, gpus: 8, gpu_type: h100}}")
    assert list(sbatch_options(settings.of_stage("train"))) == [
        "--partition=cpu",
        "--nodes=1-4",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--gpus-per-node=h100:8",
        "--requeue",
        "--signal=B:USR1@120",
    ]
    assert settings.of_stage("features").gpus == 0


def test_all_keys_reach_sbatch(load):
    text = """
        {account: a, qos: q, constraint: 'x|y', time: '1-00:00:00', notice_s: 60, memory: 64000,
         requeue: false, extra: [--mail-type=FAIL]}
    """
    options = list(sbatch_options(load(text).of_stage("train")))
    for option in ("--account=a", "--qos=q", "--constraint=x|y", "--time=1-00:00:00", "--mem=64000"):
        assert option in options
    assert options[-3:] == ["--no-requeue", "--signal=B:USR1@60", "--mail-type=FAIL"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tme: 3", "unknown key 'tme' (did you mean 'time'?)"),
        ("time: 4:00:00", "time: expected a time in quotes, such as '4:00:00' or '2-00:00:00', found 14400"),
        ("stages: {trian: {}}", "unknown key 'stages.trian' (did you mean 'train'?)"),
        ("stages: {train: {gpu: 3}}", "unknown key 'stages.train.gpu' (did you mean 'gpus'?)"),
        ("stages: {train: 3}", "stages: expected names of stages with keys and values, found 3"),
        ("stages: [3]", "stages: expected names of stages with keys and values"),
        ("stages: {train: {nodes: 2-x}}", "stages.train.nodes: expected a number of nodes, or a range"),
        ("extra: [x]", "extra: expected a list of options of sbatch, such as --reservation=x, found 'x'"),
        ('setup: ["a\\nb"]', "setup: expected a list of lines of shell"),
        ("gpus: -1", "gpus: expected a number, found -1"),
        ('partition: "a b"', "partition: expected a word without blanks and quotes, found 'a b'"),
        ('account: "$(touch x)"', "account: expected a word without blanks and quotes"),
        ('constraint: "-x"', "constraint: expected a word without blanks and quotes"),
        ("notice_s: 65536", "notice_s: expected a number of seconds, at most 65535, found 65536"),
        (
            "{time: '2', notice_s: 120}",
            "notice_s 120 leaves the jobs of 'manifests' no time: expected less than the 120 s of time '2'",
        ),
        ("{time: 1-0, stages: {train: {time: '1:30'}}}", "notice_s 120 leaves the jobs of 'train' no time"),
    ],
)
def test_mistakes_are_named(load, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(text)


@pytest.mark.parametrize("constraint", ["h100", "[rack1|rack2]", "(a100|h100)&ib"])
def test_a_constraint_may_have_brackets(load, constraint):
    resources = load(f"constraint: '{constraint}'").of_stage("train")
    assert f"--constraint={constraint}" in sbatch_options(resources)


def test_what_leaves_time_before_the_notice(load):
    """Any notice without a limit; any limit of stages that do not end at it; a stage's own keys count."""
    load("{time: '0', notice_s: 65535}")
    load("{stages: {results: {time: '1'}}}")
    load("{time: '1', notice_s: 30, stages: {train: {notice_s: 59}}}")


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("0", 0),
        ("90", 5400),
        ("1:30", 120),
        ("2:00:00", 7200),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("2-0:0:1", 172860),
    ],
)
def test_times_are_read_as_slurm_does(time, expected):
    assert seconds(time) == expected


def test_the_toolkits_file_can_be_used():
    settings = load_slurm_settings(ROOT / "conf" / "slurm.yaml")
    assert settings.of_stage("train").gpus == 1


def test_the_stages_are_those_of_the_driver():
    table = (ROOT / "local" / "stages.sh").read_text()
    assert tuple(re.findall(r"^\d \| (\w+)", table, re.MULTILINE)) == STAGES


def test_the_document_has_every_key():
    """docs/cluster.md has a row for each key, with its default and what its docstring says."""
    document = (ROOT / "docs" / "cluster.md").read_text()
    for name, field in Resources.model_fields.items():
        default = "null" if field.default is None else field.get_default(call_default_factory=True)
        default = str(default).lower() if isinstance(default, bool) else default
        assert f"| `{name}` | `{default}` | {' '.join(field.description.split())} |" in document
