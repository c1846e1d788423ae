#!/usr/bin/env bash
# What srun starts on every node of a job: node.sh PYTHON ARGUMENTS... calls torchrun with these arguments, and
# sees to it that neither an impatient nor a stuck torchrun harms the run.
set -euo pipefail

rendezvous_s=${AUDIOTAG_RENDEZVOUS_S:-300}
readonly RENDEZVOUS_S=${rendezvous_s%.*}
# Beyond the time that it may wait for other nodes; when its own processes are done it waits for up to 300 s until those
# of the others are.
readonly PATIENCE_S=$((RENDEZVOUS_S < 300 ? 360 : RENDEZVOUS_S + 60))

# Slurm signals every process of a step. Torchrun would kill the processes that it has started half a minute after
# a signal; those who save get all the time that Slurm leaves them.
trap '' USR1
signals=SIGTERM,SIGINT,SIGHUP,SIGQUIT
if [[ ${AUDIOTAG_SAVES:-no} == yes ]]; then
    trap '' TERM
    signals=SIGINT,SIGHUP,SIGQUIT
fi

python=$1
shift
# Which node keeps the store that they meet in: not to be guessed from names of hosts.
keeps_store=false
((SLURM_NODEID > 0)) || keeps_store=true
"$python" -m torch.distributed.run --signals-to-handle "$signals" \
    --rdzv-conf "join_timeout=$RENDEZVOUS_S,is_host=$keeps_store" "$@" &
launcher=$!

# A torchrun that speaks to a node which is gone hangs until the system gives the connection up, a quarter of an
# hour; it has no processes meanwhile.
children=/proc/$launcher/task/$launcher/children
since=$SECONDS
while kill -0 "$launcher" 2>/dev/null; do
    if [[ ! -r $children || -n $(<"$children") ]]; then
        since=$SECONDS
    elif ((SECONDS - since > PATIENCE_S)); then
        printf 'error: torchrun on %s has waited for the other nodes for %s s: ended\n' \
            "$(hostname)" "$((SECONDS - since))" >&2
        kill -KILL "$launcher"
        break
    fi
    sleep 1
done
status=0
wait "$launcher" || status=$?
exit "$status"
