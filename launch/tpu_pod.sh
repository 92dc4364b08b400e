#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'EOF'
A TPU VM pod, or several slices, by gcloud's queued resources. In the folder of the clone:

    NAME=cots ZONE=us-east5-b TYPE=v5litepod-256 launch/tpu_pod.sh [--dry-run] STEP

Steps, in this order:

    create          asks for the TPU; `status` says when it is ACTIVE
    status          state of the request
    setup           copies the clone to all hosts and installs it there; again after a change
    run COMMAND     starts the command on all hosts, in the background; again after a loss
    watch           follows the output of the first host
    stop            SIGTERM: a checkpoint, then status 75
    delete          gives the TPU back; until then it is paid for

Settings, from the environment:

    NAME, ZONE      required
    TYPE            accelerator type; required by create
    SLICES=1        slices of that type
    RUNTIME=v2-alpha-tpuv5-lite   the VMs' image; each kind of TPU has its own
    TIER=spot       or on-demand, guaranteed, reserved
    RESTARTS=10     of the command on each host, on 75 or a signal

What hosts share (data, runs) is for you to mount on them: docs/launch.md.
EOF
}

SLICES=${SLICES:-1} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} TIER=${TIER:-spot}
RESTARTS=${RESTARTS:-10}
dry_run=
LOG=cots_jax.log LOCK=cots_jax.lock # on each host

show_or_do() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() { show_or_do gcloud compute tpus queued-resources "$@" --zone="$ZONE"; }

# hosts WHICH COMMAND: on `all` hosts of all slices, or on the first, number 0.
hosts() { tpus ssh "$NAME" --node="$1" --worker="$1" --command="$2"; }

create() {
  local nodes=(--node-id="$NAME") tier=()
  : "${TYPE:?set TYPE, such as v5litepod-256}"
  ((SLICES == 1)) || nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  case $TIER in
    on-demand) ;;
    spot | guaranteed | reserved) tier=("--$TIER") ;;
    *) echo "launch: TIER=$TIER: it is spot, on-demand, guaranteed or reserved" >&2 && exit 2 ;;
  esac
  tpus create "$NAME" "${nodes[@]}" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    "${tier[@]}"
}

setup() {
  local archive
  archive=$(mktemp --suffix=.tgz)
  # shellcheck disable=SC2064  # the name of now
  trap "rm -f '$archive'" EXIT
  show_or_do git archive --format=tgz --output="$archive" HEAD
  tpus scp "$archive" "$NAME:cots_jax.tgz" --node=all --worker=all
  hosts all 'mkdir -p cots_jax && tar -xzf cots_jax.tgz -C cots_jax && cd cots_jax &&
    python3 -m venv .venv && .venv/bin/pip install --quiet -e ".[tpu]"'
}

run() {
  local words
  (($#)) || { usage >&2 && exit 2; }
  printf -v words '%q ' "$@"
  # Not bound to this connection; a host where the last one still runs says so.
  hosts all "cd cots_jax || exit; flock -n ../$LOCK true || { echo already running; exit; }
    PATH=\$PWD/.venv/bin:\$PATH setsid nohup flock -n --no-fork ../$LOCK python launch/local.py \
    --restarts=$RESTARTS --pause=10 -- $words</dev/null >>../$LOG 2>&1 &"
}

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
: "${NAME:?set NAME}" "${ZONE:?set ZONE}"
step=$1
shift
case $step in
  create | setup) "$step" ;;
  run) run "$@" ;;
  status) tpus describe "$NAME" --format='value(state.state)' ;;
  watch) hosts 0 "tail -n 100 -f $LOG" ;;
  stop) hosts all 'pkill -TERM -f "[l]aunch/local.py"' ;;
  delete) tpus delete "$NAME" --force ;;
  *) usage >&2 && exit 2 ;;
esac
