#!/usr/bin/env bash
# Trains on one machine of Hugging Face Jobs, and publishes the model: scripts/launch/hf-jobs.sh RECIPE USER/MODEL [options of `hf jobs run`]
# The bucket USER/runs keeps the states: the same command goes on from them.
set -euo pipefail
recipe=$1 model=$2
exec hf jobs run --flavor "${FLAVOR:-a100-large}" --timeout "${TIMEOUT:-12h}" --secrets HF_TOKEN \
  -v "hf://buckets/${model%%/*}/runs:/runs" "${@:3}" "${IMAGE:-pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime}" \
  bash -c "pip install winwin-hf && winwin train $recipe --output /runs/$recipe --resume && winwin push /runs/$recipe/model $model"
