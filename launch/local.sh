#!/usr/bin/env bash
# One machine. All its devices in one process, or a process a GPU:
#
#   launch/local.sh --config=configs/pretrain.py --config.data_dir=data/cohort --workdir=runs/mine
#   PROCESSES=4 launch/local.sh --config=... --workdir=runs/mine
#
# Ctrl-C saves and stops (exit code 75); the same command goes on. See docs/scaling.md.
set -uo pipefail

PYTHON=${PYTHON:-python}
PROCESSES=${PROCESSES:-1}                        # 1: one process has all devices
GPUS_PER_PROCESS=${GPUS_PER_PROCESS:-1}          # where there are several processes
PORT=${PORT:-9871}                               # free on this machine; the processes meet there

[ "$PROCESSES" -gt 1 ] || exec "$PYTHON" -m anatcl_jax.main "$@"

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null' INT TERM
for ((i = 0; i < PROCESSES; i++)); do
  first=$((i * GPUS_PER_PROCESS))
  CUDA_VISIBLE_DEVICES=$(seq -s, "$first" $((first + GPUS_PER_PROCESS - 1))) \
    "$PYTHON" -m anatcl_jax.main "$@" --coordinator_address="localhost:$PORT" \
    --num_processes="$PROCESSES" --process_id="$i" &
  pids+=($!)
done

# 1 and 2 say what is wrong; a process that was killed, and the others that lost it, can go on.
result=0
for pid in "${pids[@]}"; do
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done   # a signal ends wait early
  wait "$pid"
  case $? in
    0) ;;
    1) result=1 ;;
    2) result=2 ;;
    *) [ "$result" -ne 0 ] || result=75 ;;
  esac
done
exit "$result"
