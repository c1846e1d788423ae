"""Whether the processes of a run find each other and can add numbers up together."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from audiotag.checks.finding import Finding, fail, ok
from audiotag.distributed import choose_device
from audiotag.errors import TrainingError

SUBJECT = "processes"
# What the gradients of a large model come in at a time, and a tenth of it where processors add.
GPU_NUMBERS, CPU_NUMBERS = 16 * 2**20, 2**20
ROUNDS = 5
POLL_S = 0.1
# A process that an operation does not let go is ended so long after its time.
GRACE_S = 15.0


@dataclass(frozen=True)
class Place:
    """This process among those that a launcher started, as it says in the environment."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @classmethod
    def from_environment(cls) -> Place:
        """One process alone where no launcher says otherwise."""
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        return cls(rank, size, local, int(os.environ.get("LOCAL_WORLD_SIZE", size if local == rank else 1)))


def meet(place: Place, device: str, timeout_s: float, own: list[Finding]) -> list[Finding] | None:
    """Add up a tensor over all processes; what this and each process' own look at its machine found.

    Args:
        place: this process.
        device: see `choose_device`.
        timeout_s: how long to wait for the others.
        own: what this process found.

    Returns None on processes other than the first.
    """
    if place.size == 1:
        return [*own, ok(SUBJECT, "one, which has nobody to exchange gradients with")]
    watch = threading.Timer(2 * timeout_s + GRACE_S, abandon, (place, timeout_s))
    watch.daemon = True
    watch.start()
    timeout = timedelta(seconds=timeout_s)
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store = dist.PrefixStore("check", open_store(place, timeout))
        store.set(f"found/{place.rank}", json.dumps([asdict(finding) for finding in own]))
        missing = wait_for(store, "found", place.size, timeout_s)
        if not missing:
            store.set(f"met/{place.rank}", add_up(place, device, store, timeout))
        results = conclude(store, place, missing, timeout_s) if place.rank == 0 else None
        farewell(store, place, timeout_s)
    except (dist.DistError, RuntimeError, ValueError) as error:
        text = f"rank {place.rank} of {place.size} cannot reach {address} within {timeout_s:g} s"
        advice = (
            f"is rank 0 there, and the port open between the machines? ({str(error).partition(chr(10))[0]})"
        )
        return [*own, fail(SUBJECT, text, advice, TrainingError)]
    finally:
        watch.cancel()
    return results


def open_store(place: Place, timeout: timedelta) -> dist.Store:
    """The store of torchrun's agent, or else one that the first process keeps and that waits for nobody."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.size, timeout=timeout))
        return store
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "0"))
    if place.rank != 0:
        wait_for_port(address, port, timeout.total_seconds())
    return dist.TCPStore(address, port, place.size, place.rank == 0, timeout=timeout, wait_for_workers=False)


def wait_for_port(address: str, port: int, timeout_s: float) -> None:
    """Wait until somebody listens: the store tries for up to three times as long as it was told to."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=timeout_s).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(error.strerror or str(error)) from None
        time.sleep(POLL_S)


def wait_for(store: dist.Store, what: str, size: int, timeout_s: float) -> list[int]:
    """The ranks that have not written something within the time."""
    deadline = time.monotonic() + timeout_s
    missing = list(range(size))
    while True:
        missing = [rank for rank in missing if not store.check([f"{what}/{rank}"])]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(POLL_S)


def add_up(place: Place, device: str, store: dist.Store, timeout: timedelta) -> str:
    """All-reduce tensors; empty, or why that failed. The first process gives the rate, as `=<GB/s>`."""
    # Without this, NCCL's operations return at once and fail in a thread of their own.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        chosen = choose_device(device, place.local_rank)
        backend = "gloo"
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            backend = "nccl"
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
        numbers = torch.empty(GPU_NUMBERS if backend == "nccl" else CPU_NUMBERS, device=chosen)
        start = 0.0
        for number in range(ROUNDS + 1):
            if number == 1:  # the first one sets up connections
                start = time.perf_counter()
            numbers.fill_(place.rank + 1)
            dist.all_reduce(numbers)
            wanted = place.size * (place.size + 1) / 2
            if not bool((numbers == wanted).all()):
                return f"a sum over all processes is wrong: {numbers[0].item():g}, expected {wanted:g}"
        seconds = time.perf_counter() - start
        dist.destroy_process_group()
    except Exception as error:  # of whatever library: it is what is being looked for
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"={backend} {ROUNDS * numbers.nbytes / seconds / 1e9:.2f}"


def conclude(store: dist.Store, place: Place, missing: list[int], timeout_s: float) -> list[Finding]:
    """What the first process says of all of them."""
    here = [rank for rank in range(place.size) if rank not in missing]
    findings = merged({rank: json.loads(store.get(f"found/{rank}")) for rank in here})
    if missing:
        names = ", ".join(map(str, missing))
        text = f"of {place.size}, rank {names} did not come within {timeout_s:g} s"
        advice = "see that its machine runs the same command with the same MASTER_ADDR and MASTER_PORT"
        return [*findings, fail(SUBJECT, text, advice, TrainingError)]
    silent = wait_for(store, "met", place.size, timeout_s)
    words = {rank: store.get(f"met/{rank}").decode() for rank in here if rank not in silent}
    bad = {rank: word for rank, word in words.items() if not word.startswith("=")}
    if silent or bad:
        told = [f"rank {rank}: {word}" for rank, word in bad.items()][:3]
        told += [f"rank {rank} does not come back from it" for rank in silent][:3]
        advice = "NCCL_DEBUG=INFO tells more; are firewall and NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME right?"
        text = "they meet, but cannot add up a tensor: " + "; ".join(told)
        return [*findings, fail(SUBJECT, text, advice, TrainingError)]
    backend, rate = words[0].removeprefix("=").split()
    return [*findings, ok(SUBJECT, f"all {place.size} add up a tensor by {backend}, {rate} GB/s")]


def merged(by_rank: dict[int, list[dict]]) -> list[Finding]:
    """The findings of all processes: one line for what all of one level say, the worst one's text in it."""
    if len(by_rank) == 1:
        return [Finding(**entry) for entry in next(iter(by_rank.values()))]
    order = {"ok": 0, "warn": 1, "fail": 2}
    worst: dict[str, tuple[int, dict, list[int]]] = {}
    for rank, entries in by_rank.items():
        for entry in entries:
            level, _, ranks = worst.get(entry["subject"], (-1, entry, []))
            if order[entry["level"]] > level:
                worst[entry["subject"]] = (order[entry["level"]], entry, [rank])
            elif order[entry["level"]] == level:
                ranks.append(rank)
    findings = []
    for level, entry, ranks in worst.values():
        where = "" if level == 0 or len(ranks) == len(by_rank) else f"rank {', '.join(map(str, ranks))}: "
        findings.append(Finding(**{**entry, "text": where + entry["text"]}))
    return findings


def farewell(store: dist.Store, place: Place, timeout_s: float) -> None:
    """The first process keeps the store until all have gone, as far as they have come."""
    try:
        store.set(f"gone/{place.rank}", "")
        if place.rank == 0:
            here = [rank for rank in range(place.size) if store.check([f"found/{rank}"])]
            deadline = time.monotonic() + min(timeout_s, GRACE_S)
            while time.monotonic() < deadline and not store.check([f"gone/{rank}" for rank in here]):
                time.sleep(POLL_S)
    except RuntimeError:
        return  # the one that keeps the store was faster


def abandon(place: Place, timeout_s: float) -> None:
    """End a process that an operation does not let go."""
    text = f"rank {place.rank} of {place.size} hung for {2 * timeout_s + GRACE_S:g} s"
    sys.stderr.write(f"error: {text} in meeting the others or in adding up a tensor with them\n")
    sys.stderr.flush()
    os._exit(TrainingError.exit_code)
