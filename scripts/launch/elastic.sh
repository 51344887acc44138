#!/usr/bin/env bash
# Trains by torchrun, which starts all processes again where one dies: they go on from the last state.
#   scripts/launch/elastic.sh RECIPE RUN
# Several machines: the same command in each, with NODES=2 (or 1:4, any number from one to four) and HEAD=FIRST_MACHINE:29400. RUN is a
# folder that all see. FSDP: ACCELERATE_USE_FSDP=true FSDP_VERSION=2 before it. On CPUs: ACCELERATE_USE_CPU=true PROCESSES=2.
set -euo pipefail
if [ $# -lt 2 ]; then echo "elastic.sh: expected RECIPE RUN" >&2; exit 2; fi
if ! [[ "${PROCESSES:-gpu}" =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]]; then
  echo "elastic.sh: PROCESSES=$PROCESSES: expected a number from 1, gpu, cpu or auto" >&2
  exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# This machine's number, by Slurm, Kubernetes or SkyPilot: the first one answers at HEAD, whatever its own name for itself is.
node=${NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-${SKYPILOT_NODE_RANK:-}}}}
here=()
if [ -n "$node" ]; then here=(--rdzv-conf "is_host=$([ "$node" = 0 ] && echo true || echo false)"); fi
# Else processes that are started again meet the addresses of those that died (https://github.com/pytorch/pytorch/issues/135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "${NODES:-1}" --nproc_per_node "${PROCESSES:-gpu}" --max-restarts "${RESTARTS:-10}" \
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:-127.0.0.1:29400}" --rdzv-id "${RUN_ID:-winwin}" ${here[@]+"${here[@]}"} \
  scripts/train.py "$1" --output "$2" --resume "${@:3}"
