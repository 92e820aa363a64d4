#!/bin/sh
# Puts nvcc, libclang and a disassembler, at fixed versions and from PyPI wheels, into ./.cuda. Touches nothing outside that folder.
# build.rs looks there by itself. Needs python3 with pip; a machine with a CUDA toolkit and libclang needs neither.
set -eu
cd "$(dirname "$0")/.."

packages="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88 nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78 libclang==18.1.1"

# Written last, so a download that was cut short is repeated and a finished one costs nothing.
installed=.cuda/installed.txt
[ "$(cat "$installed" 2>/dev/null)" = "$packages" ] && exit 0

if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "tools/cuda.sh: python3 with pip not found. Fix: install it (Debian/Ubuntu: apt install python3-pip)," \
        "or install a CUDA toolkit >= 12.8 and libclang." >&2
    exit 1
fi

echo "tools/cuda.sh: fetching nvcc 13.0.88 and libclang 18.1.1 into .cuda (134 MB)" >&2
mkdir -p .cuda/tmp
# --target installs beside the Python in use, not into it: distributions that manage their own Python allow that.
# The temporary folder and the missing cache keep pip inside .cuda as well.
# shellcheck disable=SC2086 # the package list is meant to be split
TMPDIR="$PWD/.cuda/tmp" python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-cache-dir --no-deps --no-compile --only-binary :all: --upgrade --target .cuda $packages
rm -rf .cuda/tmp
.cuda/nvidia/cu13/bin/nvcc --version >/dev/null
echo "$packages" >"$installed"
