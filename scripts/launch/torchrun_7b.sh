#!/usr/bin/env bash
# Starts one node's share of a training run. Run it on every node, with the same values but for NODE_RANK.
# `egrc train --dry-run --nnodes N --nproc-per-node 8 --config ...` prints each node's line.
#
#   NNODES          nodes in all (1; under PyTorchJob the operator's)
#   NODE_RANK       this one's number, from 0; node 0 holds the run folder's lock and talks to the servers (0; under Slurm and PyTorchJob theirs)
#   NPROC_PER_NODE  processes here, one per GPU (8)
#   MASTER_ADDR     address of node 0 (127.0.0.1)
#   MASTER_PORT     a free port there (29500)
#   CONFIG          configuration files, later ones win (configs/r1_distill_qwen_7b.yaml), with spaces between; run.dir must be on a folder that all nodes share
#   SETTINGS        values of the configuration, key=value with spaces between (none); what has a space itself goes behind the command: --set 'key=a b'
#   SUPERVISE       1: start the share again when the run dies; 0: don't (1)
#   PYTHON          interpreter of the environment (.venv/bin/python of this repository)
#   EGRC_API_KEY    key of servers on other machines (unset)
#   GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME  network device between the nodes, where their names lead elsewhere (unset)
#
# SIGTERM finishes or gives up the step within run.stop_grace_s, commits, and ends with exit code 75; a second one ends at once.
# `egrc stop RUN` ends the run after its step from anywhere. Further arguments go to the trainer, e.g. --set run.seed=2 or --resume.
set -euf -o pipefail # values may look like patterns of file names
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# as SGLang sets them for its processes: sync.transport=distributed has both in one group
export NCCL_CUMEM_ENABLE="${NCCL_CUMEM_ENABLE:-0}" NCCL_NVLS_ENABLE="${NCCL_NVLS_ENABLE:-0}"

options=()
for file in ${CONFIG:-"$root/configs/r1_distill_qwen_7b.yaml"}; do options+=(--config "$file"); done
for setting in ${SETTINGS:-}; do options+=(--set "$setting"); done
if [ "${SUPERVISE:-1}" != 0 ]; then options+=(--supervise); fi

exec "$python" -P -m egrc_mega.cli.main train "${options[@]}" \
    --nnodes "${NNODES:-${PET_NNODES:-1}}" --node-rank "${NODE_RANK:-${PET_NODE_RANK:-${SLURM_PROCID:-0}}}" \
    --nproc-per-node "${NPROC_PER_NODE:-8}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" "$@"
