#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'EOF'
A managed job of SkyPilot, on whichever of your clouds has the GPUs. In the folder of the clone:

    ACCELERATORS=H100:8 launch/sky.sh [--dry-run] --config=configs/pretrain.py …

The arguments are those of `python -m cots_jax.main`; /data and /runs are the buckets.

Settings, from the environment:

    NAME=cots-jax        of the job
    ACCELERATORS=H100:8  of a node
    NODES=1              more need SHARED=true
    SHARED=false         true: --workdir is in a folder that all nodes share, which /runs is not
    SPOT=true            false: on demand
    DATA_BUCKET=gs://NAME-data, RUNS_BUCKET=gs://NAME-runs   or s3:// and others
EOF
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
NAME=${NAME:-cots-jax}
case ${SPOT:-true} in
  true) spot=--use-spot ;;
  false) spot=--no-use-spot ;;
  *) echo "launch: SPOT=$SPOT: it is true or false" >&2 && exit 2 ;;
esac
NODES=${NODES:-1}
if [[ $NODES != 1 && ${SHARED:-false} != true ]]; then
  echo "launch: NODES=$NODES: each node has a cache of /runs of its own, and a training needs one" \
    "folder for all: add a volume to launch/sky.yaml, put --workdir there, and set SHARED=true" >&2
  exit 2
fi
printf -v words '%q ' "$@"
command=(
  sky jobs launch --name "$NAME" --num-nodes "$NODES" --gpus "${ACCELERATORS:-H100:8}" "$spot"
  --env "ARGUMENTS=$words" --env "DATA_BUCKET=${DATA_BUCKET:-gs://$NAME-data}"
  --env "RUNS_BUCKET=${RUNS_BUCKET:-gs://$NAME-runs}" "$(dirname "$0")/sky.yaml"
)
if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi
