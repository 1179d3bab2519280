#!/usr/bin/env bash
# Starts one node's share of a training run. Run it on every node, with the same values but for NODE_RANK.
# `egrc train --dry-run --nnodes N --nproc-per-node 8 --config ...` prints each node's line.
#
#   NNODES          nodes in all (1)
#   NODE_RANK       this one's number, from 0; node 0 holds the run folder's lock and talks to the servers (0)
#   NPROC_PER_NODE  processes here, one per GPU (8)
#   MASTER_ADDR     address of node 0 (127.0.0.1)
#   MASTER_PORT     a free port there (29500)
#   CONFIG          configuration files, later ones win (configs/r1_distill_qwen_7b.yaml), with spaces between; run.dir must be on a folder that all nodes share
#   SUPERVISE       1: start the share again when the run dies; 0: don't (1)
#
# SIGTERM finishes or gives up the step within run.stop_grace_s, commits, and ends with exit code 75; a second one ends at once.
# Further arguments go to the trainer, e.g. --set run.seed=2 or --resume.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# as SGLang sets them for its processes: sync.transport=distributed has both in one group
export NCCL_CUMEM_ENABLE="${NCCL_CUMEM_ENABLE:-0}" NCCL_NVLS_ENABLE="${NCCL_NVLS_ENABLE:-0}"

configs=()
for file in ${CONFIG:-"$root/configs/r1_distill_qwen_7b.yaml"}; do configs+=(--config "$file"); done

supervise=(--supervise)
if [ "${SUPERVISE:-1}" = 0 ]; then supervise=(); fi

exec "$python" -P -m egrc_mega.cli.main train "${supervise[@]}" \
    --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${NPROC_PER_NODE:-8}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    "${configs[@]}" "$@"
