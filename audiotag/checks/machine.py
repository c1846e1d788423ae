"""The machine of a process: versions, GPUs, shared memory, open files, cores."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from audiotag.checks.finding import Finding, fail, failed, ok, warn
from audiotag.checks.processes import Place
from audiotag.config import Config
from audiotag.distributed import choose_device
from audiotag.errors import ConfigError, TrainingError, one_line
from audiotag.frontend import FRAME_SHIFT, PRESETS, SAMPLING_RATE
from audiotag.provenance import PACKAGES

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
# Batches that torch's loader has ready for each worker.
PREFETCHED = 2
# A worker holds files, pipes and shared memory of the batches that are under way.
FILES_PER_WORKER = 64
FILES_OF_A_PROCESS = 256
TYPICAL_CLIP_S = 10.0


def check_machine(config: Config, place: Place, device: str) -> list[Finding]:
    """All that can be said of this machine for the processes on it.

    Args:
        config: of the recipe.
        place: this process.
        device: see `choose_device`.
    """
    return [
        check_versions(),
        *check_gpus(config, place, device),
        check_shared_memory(config, place.local_size),
        check_open_files(config),
        check_cores(config, place.local_size),
    ]


def check_versions() -> Finding:
    """Versions, of which torch and torchaudio must be a pair."""
    versions = {package: metadata.version(package) for package in PACKAGES}
    text = ", ".join(
        [f"python {platform.python_version()}", *(f"{name} {v}" for name, v in versions.items())]
    )
    pair = {".".join(versions[name].split(".")[:2]) for name in ("torch", "torchaudio")}
    if len(pair) > 1:
        advice = "torchaudio works with the torch of its own number alone; install the two of setup.py"
        return fail("environment", text, advice, ConfigError)
    return ok("environment", f"{text}; {platform.node()}")


def check_gpus(config: Config, place: Place, device: str) -> list[Finding]:
    """The GPU of this process, or that there is none; others' are left alone, since looking takes memory."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    threads = f"training takes the CPU, {torch.get_num_threads()} threads for each process"
    driver = driver_version()
    if count == 0 and device == "auto" and driver is not None:
        advice = "is torch a build for CPUs, or CUDA_VISIBLE_DEVICES empty?"
        return [warn("GPUs", f"the driver {driver} is there, but torch sees no GPU", advice)]
    if count and device in ("auto", "cuda") and place.local_size > count:
        text = f"{place.local_size} processes on this machine, {count} GPUs"
        return [fail("GPUs", text, "start as many processes as there are GPUs (--ngpu)", ConfigError)]
    try:
        chosen = choose_device(device, place.local_rank)
        if chosen.type != "cuda":
            return [ok("GPUs", f"{'none' if count == 0 else 'not asked for'}; {threads}")]
        return check_gpu(config, chosen, f"one of {count}, driver {driver or 'unknown'}")
    except ConfigError as error:
        return [failed("GPUs", error)]
    except RuntimeError as error:  # CUDA's own
        text = f"{device} of local rank {place.local_rank} does not work ({one_line(str(error))[:200]})"
        advice = "nvidia-smi -q shows its state; leave it out with CUDA_VISIBLE_DEVICES, or take another node"
        return [fail("GPUs", text, advice, TrainingError)]


def check_gpu(config: Config, chosen: torch.device, about: str) -> list[Finding]:
    """What a GPU is, whether its memory is free, and whether it can do what the configuration asks for."""
    torch.cuda.set_device(chosen)
    free, total = torch.cuda.mem_get_info()
    name = f"{torch.cuda.get_device_name()} with {total / GIB:.0f} GiB"
    findings = [ok("GPUs", f"{name}, {about}, CUDA {torch.version.cuda}")]
    if free < 0.9 * total:
        text = f"GPU {torch.cuda.current_device()} has {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        findings.append(warn("GPUs", text, "another program uses it; nvidia-smi shows which"))
    if config.training.amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        advice = "take training.amp fp16"
        findings.append(warn("GPUs", "training.amp is bf16, which this GPU only emulates", advice))
    return findings


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.split() or [None])[0]


def check_shared_memory(config: Config, local_size: int) -> Finding:
    """Room for the batches that loader processes hand over."""
    subject, workers = "shared memory", config.data.num_workers * local_size
    if workers == 0 or not SHARED_MEMORY.is_dir():
        return ok(
            subject, "not needed: no loader processes" if workers == 0 else "no /dev/shm on this system"
        )
    free = shutil.disk_usage(SHARED_MEMORY).free
    need = workers * PREFETCHED * batch_bytes(config)
    free_gib, need_gib = free / GIB, need / GIB
    text = f"{SHARED_MEMORY} has {free_gib:.2f} GiB free; {workers} loader processes fill {need_gib:.2f} GiB"
    if free < need:
        advice = "enlarge it (docker run --shm-size=8g), or lower data.num_workers or the batch"
        return warn(subject, text, advice)
    return ok(subject, text)


def batch_bytes(config: Config) -> float:
    """Bytes of the inputs of one batch."""
    data, features = config.data, config.features
    clip_s = (
        features.target_frames * FRAME_SHIFT / SAMPLING_RATE if features.target_frames else TYPICAL_CLIP_S
    )
    seconds = (
        data.max_duration_s if isinstance(data.max_duration_s, float) else (data.batch_size or 64) * clip_s
    )
    if data.batch_size and isinstance(data.max_duration_s, float):
        seconds = min(seconds, data.batch_size * clip_s)
    rate = SAMPLING_RATE
    if features.storage == "stored":
        rate = SAMPLING_RATE // FRAME_SHIFT * PRESETS[features.preset].num_mel_bins
    return seconds * rate * torch.float32.itemsize


def check_open_files(config: Config) -> Finding:
    """The limit of open files of a process."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = FILES_OF_A_PROCESS + FILES_PER_WORKER * config.data.num_workers
    text = f"{limit} may be open in a process; {config.data.num_workers} loader processes take up to {need}"
    if limit != resource.RLIM_INFINITY and limit < need:
        return warn("open files", text, f"raise the limit: ulimit -n {min(65536, most)} (of at most {most})")
    return ok("open files", text)


def check_cores(config: Config, local_size: int) -> Finding:
    """Cores for the training processes and their loaders."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = local_size * (1 + config.data.num_workers)
    text = (
        f"{cores} cores for {local_size} training and {local_size * config.data.num_workers} loader processes"
    )
    if wanted > 2 * cores:
        return warn("cores", text, "lower data.num_workers, or ask the scheduler for more CPUs")
    return ok("cores", text)
