#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'EOF'
Submits a command to SLURM, and starts it again after a preemption, the end of its time or the loss
of a process. In the folder of the clone:

    NODES=4 GPUS=8 launch/slurm.sh [--dry-run] python -m cots_jax.main --config=configs/pretrain.py

Settings, from the environment (sbatch's own, such as SBATCH_PARTITION and SBATCH_ACCOUNT, hold too):

    NODES=1         nodes
    GPUS=8          GPUs of a node
    PER=node        one process a node, or PER=gpu
    CPUS=16         cores of a process
    TIME=24:00:00   at most; then it is saved and queued again
    NOTICE=300      seconds before that at which SIGTERM is sent
    RESTARTS=100    at most
    NAME=cots_jax   of the job

Exit status 1 or 2 of any process ends the job; 75 and signals queue it again.
EOF
}

NODES=${NODES:-1} GPUS=${GPUS:-8} PER=${PER:-node} CPUS=${CPUS:-16}
TIME=${TIME:-24:00:00} NOTICE=${NOTICE:-300} RESTARTS=${RESTARTS:-100} NAME=${NAME:-cots_jax}

# Inside the job: one step, then what its end calls for.
in_job() {
  local failed="slurm-$SLURM_JOB_ID.failed" status=0 state
  trap : TERM # the processes get it as well; they save, and we wait
  rm -f "$failed"
  # srun's own status is the highest of all, which hides a 1 behind the 75 of the others.
  # shellcheck disable=SC2016  # for the shell of the task
  srun --kill-on-bad-exit=0 --wait=180 bash -c '
    trap : TERM
    failed=$1
    shift
    status=0
    "$@" || status=$?
    ((status != 1 && status != 2)) || touch "$failed"
    exit "$status"' task "$failed" "$@" || status=$?
  if [[ -e $failed ]]; then
    rm -f "$failed"
    echo "launch: a process has failed and says why; not queued again" >&2
    exit 1
  fi
  if ((status == 75 || status >= 128)); then
    # What SLURM itself has ended is cancelled, or queued again by it, but for what ran out of time.
    state=$(scontrol --oneliner show job "$SLURM_JOB_ID") || state=unknown
    if [[ $state =~ JobState=(CANCELLED|COMPLETING) && $state != *Reason=TimeLimit* ]]; then
      echo "launch: ended with $status by SLURM or scancel; not queued again from here" >&2
    elif ((${SLURM_RESTART_COUNT:-0} < RESTARTS)); then
      echo "launch: ended with $status, queued again" >&2
      scontrol requeue "$SLURM_JOB_ID"
    else
      echo "launch: gave up after $RESTARTS restarts" >&2
    fi
  fi
  exit "$status"
}

dry_run=
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry_run=1 && shift ;;
    *) break ;;
  esac
done
if ((!$#)); then
  usage >&2
  exit 2
fi
case $PER in
  node) tasks=1 ;;
  gpu) tasks=$GPUS ;;
  *) echo "launch: PER=$PER: it is node or gpu" >&2 && exit 2 ;;
esac
if [[ -n ${COTS_JAX_IN_JOB:-} ]]; then
  in_job "$@"
fi

# --signal without B: goes to the processes of the step. GPUs are given to the node and shared out by
# the program, so that the processes of a node can reach each other's.
command=(
  sbatch --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$tasks" --cpus-per-task="$CPUS"
  --gpus-per-node="$GPUS" --time="$TIME" --signal="TERM@$NOTICE" --requeue --open-mode=append
  --export="ALL,COTS_JAX_IN_JOB=1,PER=$PER,GPUS=$GPUS,RESTARTS=$RESTARTS,SRUN_CPUS_PER_TASK=$CPUS"
  "$0" "$@"
)
if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi
