#!/usr/bin/env bash
# Starts the rollout servers of one node and starts again what dies, until SIGTERM. Run it on every node that serves; the run finds them
# with rollout.server=external, rollout.announce_dir=$ANNOUNCE_DIR and rollout.num_servers=<servers of all nodes>.
#
#   CONFIG            configuration files of the run, later ones win (the 7B recipe, half of two nodes of 8 H100), with spaces between
#   SERVER            sglang, or embedded: CPU servers of our own (sglang)
#   SERVERS_PER_NODE  servers here (8)
#   SERVE_HOST        address on which they listen (0.0.0.0); names that lead nowhere: give the node's own address
#   ANNOUNCE_DIR      folder that all nodes see, in which servers say where they are (/shared/servers)
#   EGRC_API_KEY      key of the servers, the same on all nodes; required where SERVE_HOST is no loopback address
#   SERVE_SETTINGS    more values of the configuration, key=value with spaces between (none)
#   PYTHON            interpreter of the trainer's environment (.venv/bin/python of this repository); SGLang has its own: rollout.python
set -euf -o pipefail # values may look like patterns of file names
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"

options=()
for file in ${CONFIG:-"$root/configs/r1_distill_qwen_7b.yaml" "$root/configs/clusters/h100_16_split.yaml"}; do options+=(--config "$file"); done
for setting in "rollout.server=${SERVER:-sglang}" "rollout.num_servers=${SERVERS_PER_NODE:-8}" \
    "rollout.host=${SERVE_HOST:-0.0.0.0}" "rollout.announce_dir=${ANNOUNCE_DIR:-/shared/servers}" "rollout.urls=[]" ${SERVE_SETTINGS:-}; do
    options+=(--set "$setting")
done

exec "$python" -P -m egrc_mega.cli.main serve "${options[@]}"
