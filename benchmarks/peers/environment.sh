#!/usr/bin/env bash
# An environment for MMSA 2.2.1 alone, in the folder given: bash benchmarks/peers/environment.sh FOLDER
set -euo pipefail
folder=${1:?the folder that gets the environment}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet torch==2.13.0 MMSA==2.2.1
"$folder/bin/python" -c 'import MMSA'
