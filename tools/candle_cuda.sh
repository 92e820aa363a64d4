#!/bin/sh
# Runs the tests of crates/sumexp-candle that need candle's CUDA backend on the software GPU, on a machine without a GPU and
# without the CUDA libraries. Words go to cargo: `tools/candle_cuda.sh test --test cuda -- FILTER` is what `make candle-cuda` does.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
stand_ins=$root/crates/sumexp-candle/tests/stand_ins

# A folder with what candle takes from a CUDA toolkit. nvcc is copied: its path is in cargo's fingerprints.
toolkit=$root/target/candle-cuda
mkdir -p "$toolkit/bin" "$toolkit/lib"
install -C -m 755 "$stand_ins/nvcc.sh" "$toolkit/bin/nvcc"
cc -shared -fPIC -Wall -Werror -Wl,-soname,libstand_ins.so -o "$toolkit/lib/libstand_ins.so" "$stand_ins/libraries.c"
for name in cublas cublasLt curand nvrtc cudart; do
    ln -sf libstand_ins.so "$toolkit/lib/lib$name.so"
done
# The driver is softgpu, as cargo builds it for the tests.
for name in libcuda.so libcuda.so.1; do
    ln -sf ../../debug/deps/libsoftgpu.so "$toolkit/lib/$name"
done

# The real nvcc stays what the build of sumexp finds, in the folder of tools/cuda.sh or on PATH. cudarc looks for libraries where
# any of these variables points, and only there: one that nobody else reads keeps it from libraries of the machine.
SUMEXP_NVCC=$(tools/setup.sh nvcc)
PATH=$(dirname "$SUMEXP_NVCC"):$PATH
unset CUDA_HOME CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR
export SUMEXP_NVCC PATH CUDNN_LIB="$toolkit" NVCC="$toolkit/bin/nvcc" CUDA_COMPUTE_CAP=80
export LD_LIBRARY_PATH="$toolkit/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cd crates/sumexp-candle
command=$1
shift
# shellcheck disable=SC2086 # CARGO may hold options
exec ${CARGO:-cargo} "$command" --features cuda --target-dir ../../target "$@"
