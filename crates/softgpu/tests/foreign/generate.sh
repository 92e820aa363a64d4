#!/bin/sh
# Compiles the programs of this folder to PTX:  tests/foreign/generate.sh [-o FOLDER]
# NVCC names the compiler; the committed files come from nvcc 13.0.88 (tools/cuda.sh). Where sm_80 and sm_90 give the same
# code, only the former is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here
[ "${1-}" = -o ] && out=$2
nvcc=${NVCC:-$here/../../../../.cuda/nvidia/cu13/bin/nvcc}
# Names without a folder: the text must not hold the place where it was made.
cd "$here"
for source in *.cu; do
    name=${source%.cu}
    for arch in 80 90; do
        ptx=$out/${name}_sm$arch.ptx
        "$nvcc" -ptx -std=c++17 -arch=compute_$arch -lineinfo -o "$ptx.raw" "$source"
        # Paths of this machine (and what names of internal variables make of them), notes, blank lines and debug sections
        # say nothing.
        sed -E -e 's/_INTERNAL_[0-9a-f]{8}_/_INTERNAL_00000000_/g; s/__N__[0-9a-f]{8}_/__N__00000000_/g' \
            -e 's/_cu_[0-9a-f]{8}/_cu_00000000/g' -e 's|^(\t\.file\t[0-9]* ").*/|\1|' -e '/^\t\/\/ /d' -e '/^$/d' \
            -e '/^\t\.section\t\.debug_str/,$d' "$ptx.raw" >"$ptx"
        rm "$ptx.raw"
    done
    if [ "$(sed 's/^\.target.*//' "$out/${name}_sm80.ptx")" = "$(sed 's/^\.target.*//' "$out/${name}_sm90.ptx")" ]; then
        rm "$out/${name}_sm90.ptx"
    fi
done
