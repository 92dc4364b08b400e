#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'EOF'
A JobSet on GKE: one or several TPU slices, or hosts with GPUs.

    NAME=cots IMAGE=… TPU=tpu-v5-lite-podslice TOPOLOGY=16x16 HOSTS=64 \
        launch/gke.sh [--dry-run] --config=configs/pretrain.py --workdir=/runs/pretrain
    NAME=cots IMAGE=… GPU=nvidia-h100-80gb HOSTS=4 launch/gke.sh [--dry-run] …

The arguments are those of `python -m cots_jax.main`. --dry-run prints the JobSet.

Settings, from the environment:

    NAME, IMAGE           required; the image is launch/Dockerfile, built and pushed by you
    TPU, TOPOLOGY         a slice's, as node pools are labelled
    GPU                   in their place: the label of an accelerator
    HOSTS=1               of a slice; or hosts with GPUs
    CHIPS=4               of a host: TPU chips, or GPUs (there 8)
    SLICES=1              of TPUs
    DATA_BUCKET=NAME-data mounted read-only at /data
    RUNS_CLAIM=NAME-runs  a PersistentVolumeClaim that many can write, at /runs
    SERVICE_ACCOUNT=default   of Kubernetes; it must be allowed to read the bucket
    GRACE=120             seconds from SIGTERM to SIGKILL
    RESTARTS=100          at most
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
: "${NAME:?set NAME}" "${IMAGE:?set IMAGE}"
kind=tpu
if [[ -n ${GPU:-} ]]; then
  kind=gpu
  CHIPS=${CHIPS:-8}
else
  : "${TPU:?set TPU, or GPU}" "${TOPOLOGY:?set TOPOLOGY, such as 4x4}"
fi
export NAME IMAGE TPU GPU TOPOLOGY HOSTS=${HOSTS:-1} CHIPS=${CHIPS:-4} SLICES=${SLICES:-1} \
  DATA_BUCKET=${DATA_BUCKET:-$NAME-data} RUNS_CLAIM=${RUNS_CLAIM:-$NAME-runs} \
  SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} GRACE=${GRACE:-120} \
  RESTARTS=${RESTARTS:-100}

# $NAMES in the JobSet are the settings above; the arguments become one JSON list, which YAML reads.
render() {
  python3 -c '
import json, os, string, sys
template = string.Template(open(sys.argv[1]).read())
print(template.substitute(os.environ, ARGUMENTS=json.dumps(sys.argv[2:])), end="")
' "$(dirname "$0")/gke-$kind.yaml" "$@"
}

if [[ -n $dry_run ]]; then
  render "$@"
else
  render "$@" | kubectl apply --filename=-
fi
