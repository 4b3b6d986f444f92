#!/bin/bash
# Locks what the agent's virtualenv holds: writes roles/torrent_agent/files/requirements.lock, with the hashes of every
# file that the registry has of each version, for all Pythons and machines. Needs the network.
set -euo pipefail
cd "$(dirname "$0")/../roles/torrent_agent/files"
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/pip" install -q uv==0.13.9
"$tool/bin/uv" pip compile --quiet --native-tls --universal --generate-hashes --no-annotate --python-version 3.10 \
  --custom-compile-command tests/lock.sh --output-file requirements.lock requirements.txt requirements-host.txt
