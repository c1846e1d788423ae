# Inside a Slurm job: training and evaluation over its nodes, saving when it must end, queueing it again.
# Sourced; needs log.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

# Restarts in place of processes that died, where nothing else is asked for.
readonly RESTARTS_IN_JOBS=3
# Times that a job is queued again because its nodes fail.
readonly MOST_TRIES=10
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

# queue_interrupted LOG: queue this job again when Slurm has not started the processes on its nodes, or has killed
# them, as when it clears up a node that was lost and has just come back.
queue_interrupted() {
    local text
    is_batch_script || return 0
    text=$(this_run "$1")
    grep -qE '^srun: (error: Unable to create step|error: Node failure|Force Terminated)' <<<"$text" || return 0
    ! grep -q 'not to be started again: ' <<<"$text" || return 0
    # Should it be a lasting state, a person must look at it.
    if ((${SLURM_RESTART_COUNT:-0} < MOST_TRIES)); then
        log "Slurm has ended the processes, or not started them within ${AUDIOTAG_RENDEZVOUS_S:-300} s"
        queue_again
    fi
}

# Whether a program runs in steps that save when they are asked to.
is_saving_step() {
    [[ ${COMMAND[0]-} == srun && " ${ENVIRONMENT[*]-} " == *' AUDIOTAG_SAVES=yes '* ]]
}

# Tell all processes of the job's steps to save and leave.
ask_steps() {
    scancel --signal=USR1 "$SLURM_JOB_ID" 2>/dev/null || true
}

# Queue this job again, unless it was cancelled; the next one of its runs goes on from here.
queue_again() {
    local state
    is_batch_script || return 0
    state=$(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p')
    if [[ $state == CANCELLED ]]; then
        log "job $SLURM_JOB_ID was cancelled: it is not queued again"
        return
    fi
    # Which ends this script too.
    trap '' TERM INT HUP USR1
    if scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
        log "job $SLURM_JOB_ID is queued again"
    else
        log "job $SLURM_JOB_ID is not queued again by this script (state ${state:-unknown}): it has --no-requeue," \
            "or Slurm does so itself"
    fi
}
