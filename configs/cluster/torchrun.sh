#!/bin/bash
# Without SLURM. One node:
#   PROCESSES=4 bash configs/cluster/torchrun.sh test --config configs/evaluate/cifar10_cam.yaml
# Two nodes that see the same folder, one line on each; HEAD is an address of the first and any free port:
#   NODES=2 NODE=0 HEAD=10.0.0.1:29500 bash configs/cluster/torchrun.sh test --config ...
#   NODES=2 NODE=1 HEAD=10.0.0.1:29500 bash configs/cluster/torchrun.sh test --config ...
# When a process dies, all start again and continue, RESTARTS times. To stop: SIGTERM to torchrun; the same line continues.
set -euo pipefail

PROCESSES=${PROCESSES:-1}
NODES=${NODES:-1}
NODE=${NODE:-0}
HEAD=${HEAD:-localhost:0} # port 0: any free one, enough on one node
TORCHRUN=${TORCHRUN:-.venv/bin/torchrun}
# Saving takes its time: torchrun kills what has not ended so many seconds after its SIGTERM.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
# Else processes that start again read where the dead ones listened, and cannot reach each other (pytorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export WANDB_MODE=${WANDB_MODE:-offline}
# Where a node's name does not lead to the address that the others reach it by: that address, and its interface.
# export ADDRESS=10.0.0.1 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1

exec "$TORCHRUN" --nnodes="$NODES" --nproc-per-node="$PROCESSES" --max-restarts="${RESTARTS:-3}" \
  --rdzv-backend=c10d --rdzv-id="${ID:-adv2}" --rdzv-endpoint="$HEAD" --rdzv-conf="is_host=$((NODE == 0))" \
  ${ADDRESS:+--local-addr="$ADDRESS"} \
  -m lightning_adv2 "$@" --trainer.devices "$PROCESSES" --trainer.num_nodes "$NODES" --trainer.strategy ddp
