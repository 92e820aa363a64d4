#!/bin/sh
# Runs tools/cuda.sh unless this machine already has both nvcc >= 12.8 and libclang. Looks in the places that build.rs
# looks in; build.rs has the last word, with an error that lists all of them. `tools/setup.sh nvcc` then prints where nvcc is.
set -eu
cd "$(dirname "$0")/.."

new_enough() { # whether the nvcc in $1 is release 12.8 or newer
    [ -x "$1" ] && "$1" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' |
        { read -r major minor && [ "$major" -gt 12 ] || { [ "$major" = 12 ] && [ "$minor" -ge 8 ]; }; }
}

find_nvcc() {
    for nvcc in "${CUDA_HOME:-}/bin/nvcc" "${CUDA_PATH:-}/bin/nvcc" "${CUDA_ROOT:-}/bin/nvcc" \
        "${CUDA_TOOLKIT_ROOT_DIR:-}/bin/nvcc" .cuda/nvidia/cu13/bin/nvcc \
        ../.cuda/nvidia/cu13/bin/nvcc ../../.cuda/nvidia/cu13/bin/nvcc \
        "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc /usr/lib/cuda/bin/nvcc; do
        [ -x "$nvcc" ] && { realpath "$nvcc"; return; }
    done
    return 1
}

have_nvcc() {
    # The first one found is the one that build.rs takes, so a later, newer one does not count.
    nvcc=$(find_nvcc) && new_enough "$nvcc"
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

# A fetch that was cut short is finished first; a finished one costs nothing.
if [ -d .cuda ] || ! have_nvcc || ! have_libclang; then
    tools/cuda.sh
fi
if [ "${1:-}" = nvcc ]; then
    find_nvcc
fi
