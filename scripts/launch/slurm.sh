#!/usr/bin/env bash
# sbatch scripts/launch/slurm.sh RECIPE RUN
# One task a machine, and in it torchrun. RUN is a folder that all machines see. Two minutes before its time is over the training saves and
# ends. A job that ends before the training does goes back to the queue, if it came to a new state.
#SBATCH --job-name=winwin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$PWD}"
started=$(mktemp)
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export NODES=$SLURM_JOB_NUM_NODES HEAD=$first:29400 RUN_ID=$SLURM_JOB_ID PROCESSES=${PROCESSES:-gpu}
if ! srun --kill-on-bad-exit=1 scripts/launch/elastic.sh "$@"; then
  if [ -z "$(find "$2" -maxdepth 1 -name 'state-*' -newer "$started")" ]; then exit 1; fi
  scontrol requeue "$SLURM_JOB_ID"
fi
