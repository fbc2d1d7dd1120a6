#!/usr/bin/env bash
# What funattr does on a GPU, in under 8 minutes: scripts/gpu.sh [--out FOLDER] [--device cpu] [--minutes 7] [--quick]
# Needs torch, and numpy, which funattr imports; wheels that lie beside this script (captum's, say; numpy's) are used from there,
# and nothing is installed or fetched. Writes gpu.json, what was found, and gpu.md, the page.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/.."
exec "${PYTHON:-python3}" scripts/gpu.py "$@"
