"""What the jobs of `./run.sh --launcher slurm` ask a Slurm cluster for: conf/slurm.yaml as a typed section.

Keys at the top hold for every stage; those below `stages.<name>` replace them for that stage's jobs.
"""

from __future__ import annotations

import difflib
import math
import operator
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from audiotag.configbase import Count, NonNegativeCount, Positive, Section
from audiotag.configfile import read_yaml
from audiotag.errors import ConfigError

Stage = Literal[
    "corpus", "manifests", "features", "noise", "statistics", "train", "evaluate", "results", "export"
]
STAGES: tuple[str, ...] = typing.get_args(Stage)
# Those that are ended at the notice before the time limit, and go on in the next run of their job.
STAGES_THAT_GO_ON = ("manifests", "features", "noise", "statistics", "train")


def number_as_text(value: Any) -> Any:
    """YAML reads 64000 as a number."""
    return str(value) if isinstance(value, int) else value


# What stands in an option of sbatch: no blanks, quotes or signs that a shell would read.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:;@%&|*()\[\]/+=-]*$")]
# May begin with a bracket: [rack1|rack2], (a100|h100)&ib.
Features = Annotated[str, Field(pattern=r"^[A-Za-z0-9_(\[][A-Za-z0-9_.,:;@%&|*()\[\]/+=-]*$")]
# Not as a number: YAML reads 4:00:00 without quotes as 14400.
Time = Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")]
Memory = Annotated[str, BeforeValidator(number_as_text), Field(pattern=r"^\d+[KMGT]?$")]
NodeRange = Annotated[str, Field(pattern=r"^[1-9]\d*-[1-9]\d*$")]
SbatchOption = Annotated[str, Field(pattern=r"^--[a-z][^\n]*$")]
Line = Annotated[str, Field(pattern=r"^[^\n]*$")]


class Resources(Section):
    """What a job asks for; null leaves it to the cluster."""

    partition: Word | None = None
    """Partition, or several with commas."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    constraint: Features | None = None
    """Features that nodes must have, such as h100 or a100|h100."""
    nodes: Count | NodeRange = 1
    """Nodes of a job; 1-4 takes what is free, at each start anew. `--num-nodes` replaces it for training."""
    gpus: NonNegativeCount = 0
    """GPUs of each node, each with one process. `--ngpu` replaces it."""
    gpu_type: Word | None = None
    """Kind of GPU, as the cluster names it."""
    cpus: Count = 1
    """Processors of each node; stages 1 to 4 start as many processes."""
    memory: Memory | None = None
    """Memory of each node, such as 64G; 0 takes all."""
    time: Time | None = None
    """Time limit, in quotes: '4:00:00', '2-00:00:00'. Training that meets it saves, and queues again."""
    notice_s: Annotated[Count, Field(le=65535)] = 120
    """Seconds before the time limit at which training is told to save: more than an update and a checkpoint
    take, and less than the limit. Slurm may be a minute early."""
    requeue: bool = True
    """Queue again what was stopped by a signal after saving, or lost its node."""
    rendezvous_s: Positive = 300.0
    """Seconds that the nodes of a job wait for each other at its start, and after a failure."""
    extra: list[SbatchOption] = []
    """Further options of sbatch, such as --reservation=x, each a text of its own."""
    setup: list[Line] = []
    """Lines of shell at the start of each job: module load, export NCCL_SOCKET_IFNAME=ib0."""


class SlurmSettings(Resources):
    """The whole file."""

    stages: dict[Stage, Resources] = {}
    """What differs for a stage, by its name."""

    def of_stage(self, stage: str) -> Resources:
        """What the jobs of a stage ask for."""
        own = self.stages.get(stage, Resources())
        top = {name: getattr(self, name) for name in Resources.model_fields}
        return Resources(**{**top, **{name: getattr(own, name) for name in own.model_fields_set}})


# What a key wants, in place of pydantic's words.
EXPECTED = {
    "nodes": "a number of nodes, or a range such as 1-4",
    "memory": "a size such as 64G, or 0 for all",
    "time": "a time in quotes, such as '4:00:00' or '2-00:00:00'",
    "extra": "a list of options of sbatch, such as --reservation=x",
    "setup": "a list of lines of shell",
    "requeue": "true or false",
    "notice_s": "a number of seconds, at most 65535",
    "rendezvous_s": "a number of seconds",
    "stages": "names of stages with keys and values",
    **dict.fromkeys(("gpus", "cpus"), "a number"),
    **dict.fromkeys(
        ("partition", "account", "qos", "constraint", "gpu_type"), "a word without blanks and quotes"
    ),
}


def load_slurm_settings(path: Path) -> SlurmSettings:
    """Read conf/slurm.yaml; a ConfigError names the first thing that is wrong in it."""
    try:
        settings = SlurmSettings.model_validate(read_yaml(path))
    except ValidationError as error:
        # A misspelt key is the likeliest mistake.
        problem = min(
            error.errors(), key=lambda problem: problem["type"] not in ("extra_forbidden", "literal_error")
        )
        raise ConfigError(f"{path}: {describe(problem)}") from None
    for stage in STAGES_THAT_GO_ON:
        resources = settings.of_stage(stage)
        if resources.time is not None and 0 < seconds(resources.time) <= resources.notice_s:
            raise ConfigError(
                f"{path}: notice_s {resources.notice_s} leaves the jobs of '{stage}' no time: expected less "
                f"than the {seconds(resources.time)} s of time '{resources.time}'"
            )
    return settings


def seconds(time: str) -> int:
    """A time limit as Slurm understands it; 0 is none."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    # A number alone, and the first of two, is one of minutes, but of hours behind days.
    units = (3600, 60, 1) if dash or len(numbers) == 3 else (60, 1)
    total = 86400 * int(days or 0) + sum(map(operator.mul, numbers, units))
    # It counts whole minutes.
    return 60 * math.ceil(total / 60)


def describe(problem: ErrorDetails) -> str:
    """One of pydantic's errors in words."""
    key = [str(part) for part in problem["loc"] if part != "[key]"]
    below_stages = key[0] == "stages" and len(key) > 1
    if problem["type"] in ("extra_forbidden", "literal_error"):
        known = STAGES if below_stages and len(key) == 2 else tuple(Resources.model_fields)
        near = difflib.get_close_matches(key[-1], known, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(known)}"
        return f"unknown key '{'.'.join(key)}' ({advice})"
    # Behind the name of the field stands which of its types or elements was tried.
    depth = 3 if below_stages and len(key) > 2 else 1
    expected = EXPECTED.get(key[depth - 1], EXPECTED["stages"])
    return f"{'.'.join(key[:depth])}: expected {expected}, found {problem['input']!r}"


def sbatch_options(resources: Resources) -> Iterator[str]:
    """The options of sbatch that ask for these resources."""
    for name in ("partition", "account", "qos", "constraint", "time"):
        if (value := getattr(resources, name)) is not None:
            yield f"--{name}={value}"
    yield f"--nodes={resources.nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={resources.cpus}"
    if resources.memory is not None:
        yield f"--mem={resources.memory}"
    if resources.gpus:
        kind = f"{resources.gpu_type}:" if resources.gpu_type else ""
        yield f"--gpus-per-node={kind}{resources.gpus}"
    yield "--requeue" if resources.requeue else "--no-requeue"
    # To the batch script alone, which is the driver. Without a limit of its own a job has that of its
    # partition, and it may be told of a pre-emption in the same way.
    yield f"--signal=B:USR1@{resources.notice_s}"
    yield from resources.extra
