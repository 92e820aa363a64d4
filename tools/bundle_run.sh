#!/bin/sh
# Runs the tests and benchmarks of this bundle on this machine's GPU and writes results.json beside itself.
# run [SECTION...] [-- WORDS]: the sections are tests, sanitizer, conformance, bench and peers, all of them if none is named; the
# words filter the benchmarks and peers. Each section stops after SUMEXP_SECTION_SECONDS, 600 if not set;
# what it had no time for counts as failed.
# `peers` needs a python3 with PyTorch (SUMEXP_PYTHON names another one). `sanitizer` runs the tests under NVIDIA's compute-sanitizer. `conformance` writes what this GPU answers into goldens/.
set -u
cd "$(dirname "$0")" || exit 1
sections=
while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
    tests | sanitizer | conformance | bench | peers) sections="$sections $word" ;;
    --) break ;;
    *)
        echo "run: \"$word\" is not one of tests, sanitizer, conformance, bench, peers" >&2
        exit 2
        ;;
    esac
done
[ -n "$sections" ] || sections=" tests sanitizer conformance bench peers"
# A test runs on the GPU and never on the software GPU of its own; nothing is left of a build's environment.
export SUMEXP_TEST_DEVICE=cuda SUMEXP_BENCH_JSON="$PWD/bench.jsonl" CRITERION_HOME="$PWD/criterion"
export SOFTGPU_CONFORMANCE_DEVICE=cuda SOFTGPU_CONFORMANCE_WRITE="$PWD/goldens"
unset SUMEXP_BENCH_DEVICE
rm -f ./*.jsonl peers.json
failed=0
limit=${SUMEXP_SECTION_SECONDS:-600}

text() { # as the inside of a JSON string
    tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'
}

left() { # seconds of the section; at least 1, because timeout takes 0 as no limit
    rest=$((deadline - $(date +%s)))
    [ $rest -gt 0 ] && echo $rest || echo 1
}

run_tests() { # section, folder, and the words before each program
    section=$1 folder=$2
    shift 2
    for program in "$folder"/*; do
        name=$(basename "$program")
        echo "== $section: $name"
        start=$(date +%s)
        timeout "$(left)" "$@" "$program" --test-threads 4 >"$section-$name.log" 2>&1
        code=$?
        seconds=$(($(date +%s) - start))
        [ $code -eq 0 ] || { failed=1; tail -n 40 "$section-$name.log"; }
        counts=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$section-$name.log" | tail -n 1)
        passed=${counts% *} broken=${counts#* }
        printf '{"name":"%s","exit":%d,"passed":%d,"failed":%d,"seconds":%d}\n' \
            "$name" $code "${passed:-0}" "${broken:-0}" $seconds >>"$section.jsonl"
    done
}

run_sanitizer() {
    if command -v compute-sanitizer >/dev/null; then
        # Without a leak check: the driver's pools keep memory on purpose.
        run_tests sanitizer tests compute-sanitizer --tool memcheck --error-exitcode 99
    else
        echo "run: compute-sanitizer is not on PATH (it comes with the CUDA toolkit)" >&2
        printf '{"name":"compute-sanitizer is missing","exit":127,"passed":0,"failed":0,"seconds":0}\n' >sanitizer.jsonl
        failed=1
    fi
}

run_bench() {
    for program in benches/*; do
        echo "== bench: $(basename "$program")"
        timeout "$(left)" "$program" --bench --noplot "$@" || failed=1
    done
}

run_peers() {
    echo "== peers"
    # It begins no case in the last tenth, and the rest is for the one that runs.
    SUMEXP_LIBRARY="$PWD/capi/libsumexp.so" PYTHONDONTWRITEBYTECODE=1 timeout "$(left)" \
        "${SUMEXP_PYTHON:-python3}" -m peers --seconds $((limit * 9 / 10)) --json peers.json "$@" || failed=1
}

table() { # of a section, from what it wrote
    echo "-- $1"
    case $1 in
    bench) sed 's/.*"op":"\([^"]*\)","dtype":"\([^"]*\)","shape":"\([^"]*\)".*"\(gb_per_s\|tflop_per_s\)":\([^,]*\),.*"seconds":\([^}]*\)}/\1 \2 \3: \6 s, \5 \4/' ;;
    *) sed 's/{"name":"\(.*\)","exit":\(.*\),"passed":\(.*\),"failed":\(.*\),"seconds":\(.*\)}/\1: \3 passed, \4 failed, exit \2, \5 s/' ;;
    esac <"$1.jsonl"
}

for section in $sections; do
    deadline=$(($(date +%s) + limit))
    case $section in
    tests | conformance) run_tests "$section" "$section" ;;
    sanitizer) run_sanitizer ;;
    bench) run_bench "$@" ;;
    peers)
        # Prints its table itself.
        run_peers "$@"
        continue
        ;;
    esac
    touch "$section.jsonl"
    table "$section"
done

list() { # the lines of a file, if it exists, as the elements of a JSON array
    [ ! -e "$1" ] || sed '$!s/$/,/' "$1"
}
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader 2>/dev/null | text)
{
    printf '{"revision":"%s","date":"%s","gpu":"%s","ok":%s' \
        "$(text <revision.txt)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$gpu" "$([ $failed = 0 ] && echo true || echo false)"
    for section in tests sanitizer conformance bench; do
        printf ',\n"%s":[\n' $section && list $section.jsonl && printf ']'
    done
    # One object, or nothing if the section was not chosen or got nowhere.
    [ ! -s peers.json ] || { printf ',\n"peers":' && cat peers.json; }
    printf '}\n'
} >results.json
echo "results.json written, $([ $failed = 0 ] && echo 'everything passed' || echo 'something FAILED')"
exit $failed
