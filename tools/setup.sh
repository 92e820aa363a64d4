#!/bin/sh
# Runs tools/cuda.sh unless this machine already has both nvcc >= 12.8 and libclang. Looks in the places that build.rs
# looks in; build.rs has the last word, with an error that lists all of them.
set -eu
cd "$(dirname "$0")/.."

# A fetch that was cut short is finished first; a finished one costs nothing.
[ ! -d .cuda ] || exec tools/cuda.sh

new_enough() { # whether the nvcc in $1 is release 12.8 or newer
    [ -x "$1" ] && "$1" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' |
        { read -r major minor && [ "$major" -gt 12 ] || { [ "$major" = 12 ] && [ "$minor" -ge 8 ]; }; }
}

have_nvcc() {
    # The first one found is the one that build.rs takes, so a later, newer one does not count.
    for nvcc in "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" "${CUDA_ROOT:-}/bin/nvcc" \
        "${CUDA_TOOLKIT_ROOT_DIR:-}/bin/nvcc" .cuda/nvidia/cu13/bin/nvcc \
        ../.cuda/nvidia/cu13/bin/nvcc ../../.cuda/nvidia/cu13/bin/nvcc \
        "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc /usr/lib/cuda/bin/nvcc; do
        [ -x "$nvcc" ] && { new_enough "$nvcc"; return; }
    done
    return 1
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    for file in .cuda/clang/native/libclang.so* \
        ../.cuda/clang/native/libclang.so* ../../.cuda/clang/native/libclang.so* /usr/lib/llvm*/lib/libclang*.so* \
        /usr/lib*/libclang*.so* /usr/lib/*/libclang*.so* /usr/local/lib/libclang*.so*; do
        [ -e "$file" ] && return
    done
    return 1
}

if ! have_nvcc || ! have_libclang; then
    tools/cuda.sh
fi
