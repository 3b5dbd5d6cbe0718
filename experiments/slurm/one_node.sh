#!/usr/bin/env bash
# A SLURM of one node on this machine, to try train.sbatch on. As root, on Debian or Ubuntu:
#
#   apt-get install slurm-wlm munge
#   export SLURM_CONF=/tmp/slurm/slurm.conf     # for sbatch, squeue, scontrol
#   experiments/slurm/one_node.sh start
#   experiments/slurm/one_node.sh stop          # no daemon stays
#
# All it writes lies in the folder of SLURM_CONF.

set -euo pipefail

: "${SLURM_CONF:?"export SLURM_CONF=/tmp/slurm/slurm.conf"}"
folder=$(dirname "$SLURM_CONF")
host=$(hostname -s)

start() {
    if [[ -e $SLURM_CONF ]]; then
        echo "error: $SLURM_CONF exists; remedy: stop that SLURM, and delete $folder" >&2
        exit 2
    fi
    mkdir -p "$folder"/{state,spool,munge}
    chmod 700 "$folder/munge"
    (umask 077 && head -c 128 /dev/urandom > "$folder/munge/munge.key")
    cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No cgroups and no accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobRequeue=1
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    # --force: the socket's folder may belong to another user.
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge/munge.key" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
        --seed-file="$folder/munge/munge.seed"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in {1..20}; do
        if sinfo --noheader --states=idle | grep -q main; then
            sinfo
            return
        fi
        sleep 1
    done
    echo "error: the node does not come up; remedy: see the logs in $folder" >&2
    exit 1
}

stop() {
    scancel --user="$(id -un)" || true
    sleep 2
    local daemon pid
    for daemon in slurmd slurmctld munged; do
        if [[ -f $folder/$daemon.pid ]]; then
            pid=$(<"$folder/$daemon.pid")
            kill "$pid" || true
            while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
        fi
    done
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    *)
        echo "error: one_node.sh ${1:-}; remedy: one_node.sh start or one_node.sh stop" >&2
        exit 2
        ;;
esac
