#!/bin/sh
# Runs the tests and benchmarks of this bundle on this machine's GPU and writes results.json beside itself.
# run [SECTION...] [-- WORDS]: the sections are tests, sanitizer, conformance, bench and peers, all of them if none is named; the
# words filter the benchmarks and peers. Each section stops after SUMEXP_SECTION_SECONDS, 600 if not set; what was stopped and
# what it had no time for is said to be, and counts as failed.
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

programs() { # of a folder; what takes longest comes last, so that it cannot use up the time of the others
    for program in "$1"/*; do [ "$(basename "$program")" = attention ] || echo "$program"; done
    [ ! -e "$1/attention" ] || echo "$1/attention"
}

row() { # section, name, state, exit code, tests passed, tests failed, seconds
    printf '{"name":"%s","state":"%s","exit":%d,"passed":%d,"failed":%d,"seconds":%d}\n' "$2" "$3" "$4" "$5" "$6" "$7" >>"$1.jsonl"
    [ "$3" = passed ] || failed=1
}

run_tests() { # section, folder, and the words before each program
    section=$1 folder=$2
    shift 2
    for program in $(programs "$folder"); do
        name=$(basename "$program") log=$section-$(basename "$program").log
        start=$(date +%s)
        if [ "$start" -ge $deadline ]; then
            echo "== $section: $name is not run: no time is left"
            row "$section" "$name" "not run" 124 0 0 0
            continue
        fi
        echo "== $section: $name"
        timeout "$(left)" "$@" "$program" --test-threads 4 >"$log" 2>&1
        code=$?
        state=passed
        [ $code -eq 0 ] || { state=failed && tail -n 40 "$log"; }
        # A program that was stopped has not counted its tests.
        [ $code -ne 124 ] || state=stopped
        passed=$(grep -c '^test .* \.\.\. ok$' "$log")
        broken=$(grep -c '^test .* \.\.\. FAILED$' "$log")
        row "$section" "$name" $state $code "$passed" "$broken" $(($(date +%s) - start))
    done
}

run_sanitizer() {
    if command -v compute-sanitizer >/dev/null; then
        # Without a leak check: the driver's pools keep memory on purpose.
        run_tests sanitizer tests compute-sanitizer --tool memcheck --error-exitcode 99
    else
        echo "run: compute-sanitizer is not on PATH (it comes with the CUDA toolkit)" >&2
        row sanitizer "compute-sanitizer is missing" "not run" 127 0 0 0
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
    *) sed 's/{"name":"\(.*\)","state":"\(.*\)","exit":\(.*\),"passed":\(.*\),"failed":\(.*\),"seconds":\(.*\)}/\1: \2, \4 tests passed, \5 failed, exit \3, \6 s/' ;;
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
