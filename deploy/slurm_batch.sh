#!/bin/bash
# A batch job on several nodes of a SLURM cluster: Ray on all of them, a worker for each GPU.
#
#   sbatch --nodes 4 deploy/slurm_batch.sh jobs.jsonl out --model /shared/models/voxtral-4b
#
# The first two arguments are the list and the output directory, the rest is for `voxtral batch`.
# Both, and the model, must lie on a file system that all nodes share. The environment that has
# voxtral-jax[gpu,ray] must be active when the job is submitted (SLURM hands it on).
#
# Not tried where it was written (no SLURM there): checked with bash -n and shellcheck; what it
# runs (ray start, voxtral batch --ray ADDRESS) was tried on one machine.

#SBATCH --job-name=voxtral-batch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
# SIGTERM two minutes before the time is up: what is being spoken is dropped, all else is kept.
#SBATCH --signal=B:TERM@120
# A node that fails puts the job back into the queue; --resume below goes on where it was.
#SBATCH --requeue
#SBATCH --output=voxtral-batch-%j.log

set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch deploy/slurm_batch.sh JOBS OUT [options of voxtral batch]" >&2
    exit 2
fi
jobs=$1 out=$2
shift 2

# srun does not take it from the lines above by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export RAY_USAGE_STATS_ENABLED=0
nodes=()
while read -r node; do nodes+=("$node"); done < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_GPUS_ON_NODE:-1}
# Two jobs on a node must not share a port.
port=$((20000 + SLURM_JOB_ID % 20000))
read -r head _ < <(getent ahostsv4 "${nodes[0]}")
address=$head:$port

# --block keeps each step, and so Ray, alive until this script ends.
srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
    ray start --head --node-ip-address="$head" --port="$port" --num-gpus="$gpus" \
    --include-dashboard=false --block &
# The head must listen before others join it.
until ray health-check --address "$address" 2>/dev/null; do sleep 2; done
if ((${#nodes[@]} > 1)); then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --nodelist="$others" \
        ray start --address="$address" --num-gpus="$gpus" --block &
fi

# In the background: bash runs a trap only between commands, or during `wait`.
voxtral batch "$jobs" --out "$out" --resume --ray "$address" \
    --workers $((${#nodes[@]} * gpus)) --gpus 1 "$@" &
batch=$!
stopped=0
trap 'stopped=1; kill -TERM "$batch"' TERM
status=0
wait "$batch" || status=$?
if ((stopped)); then
    # The trap ended that wait, not the batch, which now puts its journal in order.
    status=0
    wait "$batch" || status=$?
fi
# 130: interrupted, with work left. Back into the queue, for as long as the time limit cuts it off.
if ((status == 130)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
# All steps, and with them Ray, end with this script.
exit "$status"
