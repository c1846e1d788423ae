#!/usr/bin/env bash
# Start a Slurm cluster of a test's own on this machine: munged, slurmctld and some slurmd, as root, without
# systemd and without touching /etc. slurm_up.sh FOLDER: all that it makes lies in FOLDER, its configuration in
# FOLDER/slurm.conf, which SLURM_CONF must name for every command of Slurm. Called again it starts what is missing,
# such as a slurmd that a test has killed. slurm_down.sh FOLDER stops and removes everything.
#
# Variables, read when the cluster is made:
#   CLUSTER_NODES  how many nodes (2)
#   CLUSTER_GPUS   make-believe GPUs of each node (0): Slurm hands them out, but there is no device
#   CLUSTER_NET    shared (default): every node has its own host name; apart: also a network of its own, an
#                  address behind a bridge, and a link, <bridge>-n<number>, that can be cut. The bridge's name
#                  is the third word of FOLDER/cluster.
set -euo pipefail

readonly FIRST_PORT=26000 PORTS_EACH=20 MOST_CLUSTERS=100 PATIENCE_S=30
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
# shellcheck source=tests/cluster/daemons.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/daemons.sh"

main() {
    local node
    [[ $(id -u) == 0 ]] || fail "must run as root"
    FOLDER=$(readlink -m -- "${1:?FOLDER}")
    [[ $FOLDER =~ ^/[A-Za-z0-9_./-]+$ ]] || fail "Slurm takes no blanks or odd signs in a path: $FOLDER"
    export SLURM_CONF=$FOLDER/slurm.conf
    # Two clusters must not choose the same ports.
    exec 9<"${BASH_SOURCE[0]}"
    flock 9
    [[ -f $FOLDER/cluster ]] || make_cluster
    read -r NODES SLOT BRIDGE <"$FOLDER/cluster"
    is_running munged || start_munged
    is_running slurmctld || slurmctld -f "$SLURM_CONF" 9<&- || fail "slurmctld: see $FOLDER/slurmctld.log"
    for ((node = 1; node <= NODES; node++)); do
        is_running "slurmd-n$node" || start_slurmd "$node"
    done
    wait_until all_nodes_are_up
}

# Choose ports and addresses; write what the daemons read.
make_cluster() {
    local nodes=${CLUSTER_NODES:-2} gpus=${CLUSTER_GPUS:-0} net=${CLUSTER_NET:-shared} node
    choose_slot
    mkdir -p -- "$FOLDER/munge" "$FOLDER/state"
    chmod 755 "$FOLDER"
    # munged wants its folder closed to others, and its key to all but itself.
    chmod 711 "$FOLDER/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$FOLDER/munge/key")
    HOST=$(hostname)
    HOST=${HOST%%.*}
    BRIDGE=-
    [[ $net == shared ]] || BRIDGE=audiotag$SLOT
    {
        printf '127.0.0.1 localhost\n%s %s\n' "$(address_of 0)" "$HOST"
        for ((node = 1; node <= nodes; node++)); do printf '%s n%s\n' "$(address_of "$node")" "$node"; done
    } >"$FOLDER/hosts"
    write_slurm_conf "$nodes" "$gpus" >"$SLURM_CONF"
    # From here on slurm_down.sh can clean up.
    printf '%s %s %s\n' "$nodes" "$SLOT" "$BRIDGE" >"$FOLDER/cluster"
    [[ $net == shared ]] || make_network "$nodes"
}

# Set SLOT to the number of a block of ports that nobody listens at; it lies below those of outgoing connections.
choose_slot() {
    local first
    for ((SLOT = 0; SLOT < MOST_CLUSTERS; SLOT++)); do
        first=$((FIRST_PORT + SLOT * PORTS_EACH))
        [[ ! -e /sys/class/net/audiotag$SLOT ]] || continue
        ss -Hltn | awk -v first="$first" -v end="$((first + PORTS_EACH))" \
            '{ sub(/.*:/, "", $4); if ($4 >= first && $4 < end) taken = 1 } END { exit taken }' || continue
        return
    done
    fail "no free ports"
}

# address_of NODE: print its address; 0 is the controller's.
address_of() {
    if [[ $BRIDGE != - ]]; then
        printf '10.214.%s.%s\n' "$SLOT" "$((10 + $1))"
    elif (($1)); then
        printf '127.1.%s.%s\n' "$SLOT" "$((10 + $1))"
    else
        printf '127.0.0.1\n'
    fi
}

# write_slurm_conf NODES GPUS: with times that are short, so that tests are; Slurm's own are 30 s for KillWait
# and 300 s for SlurmdTimeout. cred_expire is also how long a requeued job waits before it may start again.
write_slurm_conf() {
    local nodes=$1 gpus=$2 port=$((FIRST_PORT + SLOT * PORTS_EACH)) gres='' node partition
    cat <<END
ClusterName=audiotag
SlurmctldHost=$HOST($(address_of 0))
SlurmctldPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$FOLDER/munge/socket,cred_expire=5
StateSaveLocation=$FOLDER/state
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdPidFile=$FOLDER/slurmd-%n.pid
SlurmdLogFile=$FOLDER/slurmd-%n.log
SlurmdSpoolDir=$FOLDER/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=5
SlurmdTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
END
    if ((gpus)); then
        mkdir -p -- "$FOLDER/dev"
        for ((node = 0; node < gpus; node++)); do
            mknod "$FOLDER/dev/gpu$node" c 1 3
            printf 'Name=gpu File=%s/dev/gpu%s\n' "$FOLDER" "$node"
        done >"$FOLDER/gres.conf"
        printf 'GresTypes=gpu\n'
        gres=" Gres=gpu:$gpus"
    fi
    for ((node = 1; node <= nodes; node++)); do
        printf 'NodeName=n%s NodeHostname=n%s NodeAddr=%s Port=%s CPUs=8 RealMemory=8000%s State=UNKNOWN\n' \
            "$node" "$node" "$(address_of "$node")" "$((port + 10 + node))" "$gres"
    done
    partition="Nodes=n[1-$nodes] MaxTime=INFINITE State=UP"
    printf 'PartitionName=main %s PriorityTier=10 PreemptMode=OFF Default=YES\n' "$partition"
    printf 'PartitionName=low %s PriorityTier=1 PreemptMode=REQUEUE GraceTime=20\n' "$partition"
    printf 'PartitionName=high %s PriorityTier=20 PreemptMode=OFF\n' "$partition"
}

# A bridge, and a network with one link to it for every node.
make_network() {
    local node name
    ip link add "$BRIDGE" type bridge
    ip addr add "$(address_of 0)/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
    for ((node = 1; node <= $1; node++)); do
        name=$BRIDGE-n$node
        ip netns add "$name"
        ip link add "$name" type veth peer name eth0 netns "$name"
        ip link set "$name" master "$BRIDGE" up
        ip -n "$name" link set lo up
        ip -n "$name" addr add "$(address_of "$node")/24" dev eth0
        ip -n "$name" link set eth0 up
    done
}

start_munged() {
    munged --force --socket="$FOLDER/munge/socket" --key-file="$FOLDER/munge/key" \
        --log-file="$FOLDER/munge/munged.log" --pid-file="$FOLDER/munged.pid" \
        --seed-file="$FOLDER/munge/seed" 9<&- >&2 || fail "munged: see $FOLDER/munge/munged.log"
    wait_until is_running munged
}

# Start the daemon of a node with its own host name and, bound over /etc/hosts for its jobs alone, all addresses.
start_slurmd() {
    local network=()
    [[ $BRIDGE == - ]] || network=(nsenter "--net=/run/netns/$BRIDGE-n$1")
    # shellcheck disable=SC2016  # expanded by the inner shell
    "${network[@]}" unshare --mount --uts --propagation private bash -c '
        printf "%s\n" "$1" >/proc/sys/kernel/hostname && mount --bind "$2/hosts" /etc/hosts &&
        exec slurmd -N "$1" -f "$2/slurm.conf"' slurmd "n$1" "$FOLDER" 9<&- >&2 ||
        fail "slurmd: see $FOLDER/slurmd-n$1.log"
    wait_until is_running "slurmd-n$1"
}

all_nodes_are_up() {
    local up
    up=$(timeout 10 sinfo -h -N -o '%N %T' -p main 2>/dev/null | grep -cE ' (idle|mixed|allocated|completing)$') || true
    [[ $up == "$NODES" ]]
}

# wait_until COMMAND...: until it succeeds.
wait_until() {
    local end=$((SECONDS + PATIENCE_S))
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain for: $*; see the logs in $FOLDER"
        sleep 0.1
    done
}

main "$@"
