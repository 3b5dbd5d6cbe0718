#!/usr/bin/env bash
# Trains on one machine or on several without SLURM, one process per GPU. From the repository:
#
#   experiments/slurm/torchrun.sh --config experiments/tmca_qata.yaml --data.root /data/QaTa
#
# On several machines the same on each of them, which must see the same disk:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first-machine experiments/slurm/torchrun.sh --config ...   # first
#   NODES=2 NODE_RANK=1 MASTER_ADDR=first-machine experiments/slurm/torchrun.sh --config ...   # second
#
# The arguments go to `textseg fit`; --ckpt_path last goes on with a run that was killed. Environment:
#   DEVICES      processes on each machine (default: its GPUs)
#   MASTER_PORT  a free port of the first machine (default 29500)
# docs/cluster.md tells more.

set -euo pipefail

nodes="${NODES:-1}"
devices="${DEVICES:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)}"
if (( devices == 0 )); then
    echo "error: this machine shows no GPU" >&2
    echo "remedy: DEVICES=2 $0 --trainer.accelerator cpu ... trains in two processes on the CPU" >&2
    exit 2
fi
if (( nodes > 1 )); then
    meeting=(--node-rank "${NODE_RANK:?"0 on the first machine, 1 on the second, ..."}"
        --master-addr "${MASTER_ADDR:?"name of the first machine"}"
        --master-port "${MASTER_PORT:-29500}")
else
    meeting=(--standalone)
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --nnodes "$nodes" --nproc-per-node "$devices" "${meeting[@]}" -m lightning_cli fit "$@" \
    --trainer.num_nodes "$nodes" \
    --trainer.devices "$devices" \
    --trainer.strategy ddp
