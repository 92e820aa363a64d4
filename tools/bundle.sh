#!/bin/sh
# Packs tests, benchmarks, the C library and the comparison with peers for a machine with a GPU and without Rust: target/gpu-bundle.tar.xz.
# There: tar xf gpu-bundle.tar.xz && gpu-bundle/run, which writes gpu-bundle/results.json.
set -eu
cd "$(dirname "$0")/.."
limit=$((48 << 20))
bundle=target/gpu-bundle
command -v xz >/dev/null || { echo "tools/bundle.sh: xz is missing (Debian: apt install xz-utils)" >&2; exit 1; }
rm -rf "$bundle" "$bundle.tar.xz"
# Not in target: cargo makes that folder itself, with a mark by which its profiles share the images.
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Without line information the images, which every program carries, are half as large. As `make capi` builds, so that both share
# what they build.
export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols
for what in "-p sumexp --all-features --lib --tests --benches" "-p softgpu --test conformance"; do
    # The words of $what are arguments. shellcheck disable=SC2086
    ${CARGO:-cargo} test --release --no-run $what 2>>"$log" || {
        cat "$log" >&2
        exit 1
    }
done
mkdir -p "$bundle/tests" "$bundle/benches" "$bundle/conformance"
# "  Executable tests/softmax.rs (target/release/deps/softmax-0123456789abcdef)" becomes "tests/softmax.rs target/...".
sed -n 's/^ *Executable \(unittests \)\{0,1\}\([^ ]*\) (\(.*\))$/\2 \3/p' "$log" >"$bundle/executables.txt"
while read -r source program; do
    # The target's name; a target in a folder of its own has the source main.rs.
    name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
    case $source in
    # These read the sources or run the compiler, and know no GPU.
    tests/house.rs | tests/report.rs | tests/sass/main.rs | tests/build_script/main.rs | tests/compile_fail.rs) continue ;;
    benches/*) folder=benches ;;
    # The software GPU's programs of one instruction, which record what a real one answers.
    conformance/*) folder=conformance ;;
    *) folder=tests ;;
    esac
    strip -o "$bundle/$folder/$name" "$program"
done <"$bundle/executables.txt"
rm "$bundle/executables.txt"
[ -e "$bundle/tests/softmax" ] && [ -e "$bundle/conformance/conformance" ] || { echo "tools/bundle.sh: no test was built" >&2; exit 1; }

# The C library, its Python module and the comparison with peers.
${MAKE:-make} capi
install -D target/capi/libsumexp.so target/capi/sumexp.h -t "$bundle/capi"
install -D -m 644 benches/peers/*.py -t "$bundle/peers"
install -m 644 examples/pytorch/sumexp.py "$bundle"

cp tools/bundle_run.sh "$bundle/run"
git describe --always --dirty >"$bundle/revision.txt" 2>/dev/null || echo unknown >"$bundle/revision.txt"
# Every program carries the same images: a dictionary as large as the bundle keeps them once.
tar -C target -cf - gpu-bundle | xz --lzma2=preset=3,dict=256MiB >"$bundle.tar.xz"
size=$(wc -c <"$bundle.tar.xz")
echo "$bundle.tar.xz: $size bytes, $(find "$bundle" -type f | wc -l) files"
if [ "$size" -gt "$limit" ]; then
    echo "tools/bundle.sh: more than $limit bytes" >&2
    exit 1
fi
