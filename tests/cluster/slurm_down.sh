#!/usr/bin/env bash
# Stop the cluster that slurm_up.sh has started and remove its folder: slurm_down.sh FOLDER. Its jobs are
# cancelled; only processes that its pid files name are ended, and those of jobs that would not leave.
set -uo pipefail

readonly PATIENCE_S=15
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
# shellcheck source=tests/cluster/daemons.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/daemons.sh"

main() {
    local node pids=() left
    FOLDER=$(readlink -m -- "${1:?FOLDER}")
    [[ -d $FOLDER ]] || return 0
    [[ -f $FOLDER/cluster ]] || fail "$FOLDER was not made by slurm_up.sh"
    export SLURM_CONF=$FOLDER/slurm.conf
    read -r NODES _ BRIDGE <"$FOLDER/cluster"
    ! is_running slurmctld || cancel_jobs
    mapfile -t left < <(list_steps)
    mapfile -t pids < <(
        pid_of slurmctld
        for ((node = 1; node <= NODES; node++)); do pid_of "slurmd-n$node"; done
        pid_of munged
    )
    end_processes "${pids[@]}"
    ((${#left[@]} == 0)) || kill -KILL "${left[@]}" 2>/dev/null
    if [[ $BRIDGE != - ]]; then
        for ((node = 1; node <= NODES; node++)); do
            ip link del "$BRIDGE-n$node"
            ip netns del "$BRIDGE-n$node"
        done
        ip link del "$BRIDGE"
    fi 2>/dev/null
    rm -rf -- "$FOLDER"
}

# So that the jobs' processes end in order.
cancel_jobs() {
    local end=$((SECONDS + PATIENCE_S))
    local -a jobs
    mapfile -t jobs < <(timeout "$PATIENCE_S" squeue -h -o %A | sort -u)
    ((${#jobs[@]})) || return 0
    timeout "$PATIENCE_S" scancel --state=PENDING "${jobs[@]}"
    timeout "$PATIENCE_S" scancel "${jobs[@]}"
    while ((SECONDS < end)) && [[ -n $(timeout "$PATIENCE_S" squeue -h -o %A) ]]; do sleep 0.1; done
} 2>/dev/null

# Print the daemons of job steps that are still there, with all that they have started.
list_steps() {
    local pid queue
    mapfile -t queue < <(
        ss -xlpH | grep -F " $FOLDER/spool-" | grep -oE '"slurmstepd",pid=[0-9]+' | grep -oE '[0-9]+$' | sort -u
    )
    while ((${#queue[@]})); do
        pid=${queue[0]}
        printf '%s\n' "$pid"
        # shellcheck disable=SC2207  # a list of numbers
        queue=("${queue[@]:1}" $(cat "/proc/$pid/task/$pid/children"))
    done
} 2>/dev/null

# end_processes PID...: ask them to end, and kill those that do not.
end_processes() {
    local pid end=$((SECONDS + PATIENCE_S))
    (($#)) || return 0
    kill -TERM "$@" 2>/dev/null
    for pid in "$@"; do
        while ((SECONDS < end)) && grep -qE '^State:\s+[^Z]' "/proc/$pid/status" 2>/dev/null; do
            sleep 0.1
        done
    done
    kill -KILL "$@" 2>/dev/null
}

main "$@"
