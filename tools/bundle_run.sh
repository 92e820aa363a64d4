#!/bin/sh
# Runs the tests and benchmarks of this bundle on this machine's GPU and writes results.json beside itself.
# `./run` does all, `./run tests`, `./run bench` or `./run conformance` one section; further words filter the benchmarks.
# `conformance` writes what this GPU answers into goldens/.
set -u
cd "$(dirname "$0")" || exit 1
section=${1:-all}
[ $# -gt 0 ] && shift
case $section in all | tests | bench | conformance) ;; *)
    echo "run: \"$section\" is not one of all, tests, bench, conformance" >&2
    exit 2
    ;;
esac
# Never the software GPU, and no environment of a build.
export SUMEXP_TEST_DEVICE=cuda SUMEXP_BENCH_JSON="$PWD/bench.jsonl" CRITERION_HOME="$PWD/criterion"
export SOFTGPU_CONFORMANCE_DEVICE=cuda SOFTGPU_CONFORMANCE_WRITE="$PWD/goldens"
unset SUMEXP_BENCH_DEVICE
rm -f bench.jsonl tests.jsonl
failed=0

text() { # as the inside of a JSON string
    tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'
}

run_tests() { # every program of a folder
    for program in "$1"/*; do
        name=$(basename "$program")
        echo "== $1: $name"
        start=$(date +%s)
        "$program" --test-threads 4 >"$name.log" 2>&1
        code=$?
        seconds=$(($(date +%s) - start))
        sed -n 's/^test result: /   /p' "$name.log"
        [ $code -eq 0 ] || { failed=1; tail -n 40 "$name.log"; }
        counts=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$name.log" | tail -n 1)
        passed=${counts% *} broken=${counts#* }
        printf '{"name":"%s","exit":%d,"passed":%d,"failed":%d,"seconds":%d}\n' \
            "$name" $code "${passed:-0}" "${broken:-0}" $seconds >>tests.jsonl
    done
}

run_bench() {
    for program in benches/*; do
        echo "== bench: $(basename "$program")"
        "$program" --bench --noplot "$@" || failed=1
    done
}

case $section in all | tests) run_tests tests ;; esac
case $section in all | conformance) run_tests conformance ;; esac
case $section in all | bench) run_bench "$@" ;; esac

list() { # the lines of a file, if it exists, as the elements of a JSON array
    [ ! -e "$1" ] || sed '$!s/$/,/' "$1"
}
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader 2>/dev/null | text)
{
    printf '{"revision":"%s","date":"%s","gpu":"%s","ok":%s,\n' \
        "$(text <revision.txt)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$gpu" "$([ $failed = 0 ] && echo true || echo false)"
    printf '"tests":[\n' && list tests.jsonl
    printf '],\n"bench":[\n' && list bench.jsonl
    printf ']}\n'
} >results.json
echo "results.json written, $([ $failed = 0 ] && echo 'everything passed' || echo 'something FAILED')"
exit $failed
