#!/usr/bin/env bash
#SBATCH --job-name=humansd --array=0-63 --gpus=1 --cpus-per-task=6 --requeue --signal=B:TERM@60
job=(python -m pipelines ghi --config "${CONFIG:-sd21}" --out "$OUT" "$@") part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
shards=$("${job[@]}" --dry-run --json | grep -oP '"shards": \K\d+') && parts=$SLURM_ARRAY_TASK_COUNT || exit
from=$((part * shards / parts)) to=$(((part + 1) * shards / parts))
[ "$from" -eq "$to" ] || exec "${job[@]}" --shards "$from:$to"
