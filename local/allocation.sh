# Inside a Slurm job: training and evaluation over its nodes, and telling them to save when it must end.
# Sourced; needs log.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

# Restarts in place of processes that died, where nothing else is asked for.
readonly RESTARTS_IN_JOBS=3
# Seconds between two wishes to stop: a process that is just starting does not hear the first.
readonly ASK_AGAIN_S=5

# Whether this driver has the nodes of a job for itself: not within `srun`, where it is one of several tasks.
in_job() {
    [[ -n ${SLURM_JOB_ID:-} && -z ${SLURM_STEP_ID:-} ]] && command -v srun >/dev/null
}

# Whether this driver is the script of a batch job, and not called by another program inside one.
is_batch_script() {
    local name
    in_job && { read -r name <"/proc/$PPID/comm"; } 2>/dev/null && [[ $name == slurmstepd ]]
}

# Whether training and evaluation are steps of a job. A single node that something else has been given, such as a
# notebook, is like any other machine.
uses_steps() {
    in_job && { ((${SLURM_NNODES:-1} > 1)) || is_batch_script; }
}

# Say which job this is.
describe_job() {
    is_batch_script || return 0
    log "Slurm job $SLURM_JOB_ID${SLURM_ARRAY_TASK_ID:+, task $SLURM_ARRAY_TASK_ID of array $SLURM_ARRAY_JOB_ID}," \
        "on ${SLURM_JOB_NODELIST:-}, SLURM_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}"
}

# Print what Slurm's commands call this job. One task of every array has the array's number for its own, by which
# they would mean all tasks.
own_job() {
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} && -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        printf '%s_%s\n' "$SLURM_ARRAY_JOB_ID" "$SLURM_ARRAY_TASK_ID"
    else
        printf '%s\n' "$SLURM_JOB_ID"
    fi
}

# Whether this is a job that was queued again.
is_queued_again() {
    ((${SLURM_RESTART_COUNT:-0} > 0)) && is_batch_script
}

# build_step_launcher RESTARTS SAVES: set COMMAND to what starts the processes on all nodes of the job.
build_step_launcher() {
    local head nodes=$SLURM_NNODES
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    ENVIRONMENT+=("AUDIOTAG_SAVES=$2")
    # Otherwise processes that start again find in the store what the ones before them have left.
    ENVIRONMENT+=(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1)
    COMMAND=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --export=ALL --kill-on-bad-exit=1)
    # A node that was lost and came back while its processes of then still ended may count as busy for ever.
    COMMAND+=(--immediate="${AUDIOTAG_RENDEZVOUS_S:-300}")
    # srun does not take it from the job by itself.
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || COMMAND+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
    COMMAND+=("$BASH" "$ROOT/local/node.sh" "$PYTHON")
    COMMAND+=(--nnodes="$nodes" --nproc-per-node="$((NGPU > 1 ? NGPU : 1))")
    COMMAND+=(--rdzv-backend=c10d --rdzv-endpoint="$head:$(free_port)")
    # Nodes of an earlier run of this job, should they still be there, must not join.
    COMMAND+=(--rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$RANDOM" --max-restarts="$1" -m)
}

# Print a port that nobody listens at on this machine, which is the first of the job; each job begins elsewhere.
free_port() {
    local port=$((20000 + SLURM_JOB_ID % 10000))
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    printf '%s\n' "$port"
}

# Whether a program runs in steps that save when they are asked to.
is_saving_step() {
    [[ ${COMMAND[0]-} == srun && " ${ENVIRONMENT[*]-} " == *' AUDIOTAG_SAVES=yes '* ]]
}

# Tell all processes of the job's steps to save and leave.
ask_steps() {
    scancel --signal=USR1 "$(own_job)" 2>/dev/null || true
}
