#!/usr/bin/env bash
# A TPU pod slice: asks for it, installs on all workers, runs, and after a preemption again.
#
#   PROJECT=mine NFS=10.0.0.2:/share launch/tpu_pod.sh --config=configs/pretrain.py
#
# Runs beside the slice, as in tmux, where gcloud is logged in. Ctrl-C saves and stops the run and
# leaves the slice; the same command goes on. See docs/scaling.md.
set -uo pipefail

PROJECT=${PROJECT:?the Google Cloud project}
NFS=${NFS:?host:/export that holds shards and workdir, such as a Filestore share of the zone}
DATA_DIR=${DATA_DIR:-cohort}                     # below the export
WORKDIR=${WORKDIR:-runs/tpu}                     # below the export
ZONE=${ZONE:-us-west4-a}
NAME=${NAME:-anatcl}
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
PRICING=${PRICING---spot}                        # empty: on demand, never preempted
MAX_STARTS=${MAX_STARTS:-50}                     # a worker that is lost counts as a preemption
POLL_SECONDS=${POLL_SECONDS:-60}

tpus() { gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE" --quiet; }
on_all_workers() { tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }
state() { tpus queued-resources describe "$NAME" --format='value(state.state)' 2>/dev/null; }
release() { tpus queued-resources delete "$NAME" --force; }

wait_until_active() {
  while :; do
    case $(state) in
      ACTIVE) return ;;
      '')   # not there
        # shellcheck disable=SC2086   # PRICING may be empty, or several words
        tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
          --runtime-version="$RUNTIME" $PRICING || exit 1 ;;
      FAILED | SUSPENDED) release || exit 1 ;;   # preempted: such a request never comes back
      *) sleep "$POLL_SECONDS" ;;
    esac
  done
}

install() {   # what is committed of this repository, and the share
  git archive --format=tar.gz --output="$archive" HEAD &&
    tpus tpu-vm scp "$archive" "$NAME:anatcl.tar.gz" --worker=all &&
    on_all_workers "set -e
      mkdir -p anatcl; tar -xzf anatcl.tar.gz -C anatcl
      python3 -m pip install -q --user uv
      ~/.local/bin/uv venv -q --allow-existing --python 3.12 ~/venv
      ~/.local/bin/uv pip install -q --python ~/venv -r anatcl/requirements.txt 'jax[tpu]'
      mountpoint -q /mnt/share || {
        sudo apt-get -qq install -y nfs-common; sudo mkdir -p /mnt/share
        sudo mount $NFS /mnt/share; }"
}

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
trap 'on_all_workers "pkill -TERM -f [a]natcl_jax.main"; exit 75' INT TERM
arguments=$(printf ' %q' "$@" --config.data_dir="/mnt/share/$DATA_DIR" \
  --workdir="/mnt/share/$WORKDIR" --distributed)
for ((start = 1; start <= MAX_STARTS; start++)); do
  wait_until_active
  install && on_all_workers "cd anatcl && ~/venv/bin/python -m anatcl_jax.main$arguments"
  code=$?
  # Finished, or failed by itself on a slice that is still there: not a preemption.
  if [[ $code == [012] && $(state) == ACTIVE ]] || [ "$code" -eq 0 ]; then
    release
    exit "$code"
  fi
  echo "start $start of $MAX_STARTS ended with code $code; the slice is $(state)" >&2
  sleep "$POLL_SECONDS"
done
echo "error: $MAX_STARTS starts were not enough; the same command goes on" >&2
release
exit 75
