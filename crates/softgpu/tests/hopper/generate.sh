#!/bin/sh
# Compiles the kernels of this folder to PTX:  tests/hopper/generate.sh [-o FOLDER]
# NVCC names the compiler; the committed files come from nvcc 13.0.88 (tools/cuda.sh).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here
[ "${1-}" = -o ] && out=$2
nvcc=${NVCC:-$here/../../../../.cuda/nvidia/cu13/bin/nvcc}
# Names without a folder: the text must not hold the place where it was made.
cd "$here"
for source in *.cu; do
    ptx=$out/${source%.cu}.ptx
    "$nvcc" -ptx -std=c++17 -arch=sm_90a -lineinfo -o "$ptx.raw" "$source"
    sed -E -e 's|^(\t\.file\t[0-9]* ").*/|\1|' -e '/^\t\/\/ /d' -e '/^$/d' -e '/^\t\.section\t\.debug_str/,$d' \
        "$ptx.raw" >"$ptx"
    rm "$ptx.raw"
done
