#!/usr/bin/env bash
# Embed proteins by a Slurm array: one job plans, N slices compute, one audits and writes the output.
#
#   bash embed.sh proteins.fasta proteins.h5 esm2-650m 16 [more options of `aminoglot embed`]
#
# 16%4 instead of 16: four slices at a time. Run it where `aminoglot` is on PATH; proteins, output, model and this folder
# must lie where every node sees them. The lines below are for all three kinds of job: a plan is for one kind of device,
# and a slice on another one is refused, so planning must not be moved to a login node. Adapt them to your cluster, or
# export SBATCH_PARTITION, SBATCH_GRES (none for CPUs) and the like before the command.
#
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#
# A slice whose node fails or whose time runs out is queued again and goes on: what is lost is the shard it was at, so
# let the time limit be some shards long. Whatever else ends a slice, the last job names it, and the same command again
# computes what is missing. The model is fetched, if need be, by the job that plans; where nodes reach no network, run
# `aminoglot inspect MODEL` on a login node first.
set -euo pipefail

step=submit
case "${1-}" in
    --plan | --slice | --finish) step=${1#--} && shift ;;
esac
if [ $# -lt 4 ]; then
    echo "usage: bash embed.sh PROTEINS OUTPUT MODEL SLICES [OPTION...]" >&2
    exit 2
fi
proteins=$1 output=$2 model=$3 slices=$4
options=(--output "$output" --model "$model" "${@:5}")
rounds=20 # so often at most a slice is queued again for its time limit

submit() {
    local id
    id=$(sbatch --parsable "$@") || return # set -e does not reach into what is substituted
    echo "${id%%;*}" # of several clusters Slurm names the one as well
}

compute() {
    local worker status=0 late=
    aminoglot embed "${options[@]}" --shard "$SLURM_ARRAY_TASK_ID/${slices%\%*}" &
    worker=$!
    trap 'late=yes; kill -TERM "$worker"' USR1 # two minutes before the limit; shards that are done are kept
    wait "$worker" || status=$?
    if [ -n "$late" ]; then
        status=0
        wait "$worker" || status=$?
        if [ "$status" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$rounds" ]; then
            scontrol requeue "$SLURM_JOB_ID"
        fi
    fi
    return "$status"
}

case $step in
    plan) exec aminoglot embed "$proteins" "${options[@]}" --plan-only ;;
    slice) compute ;;
    finish) exec aminoglot embed "${options[@]}" --finish ;;
    submit)
        plan=$(submit --job-name=aminoglot-plan "$0" --plan "$@")
        array=$(submit --job-name=aminoglot-slice --output=%x-%A_%a.out --array="1-$slices" \
            --dependency="afterok:$plan" --kill-on-invalid-dep=yes "$0" --slice "$@")
        # afterany: where a slice was lost, this job says which
        finish=$(submit --job-name=aminoglot-finish --dependency="afterany:$array" "$0" --finish "$@")
        echo "plan $plan, slices ${array}_[1-$slices], finish $finish"
        echo "how it ended: aminoglot-finish-$finish.out; where slices were lost, give the same command again"
        ;;
esac
