#!/bin/sh
# Copies the C library from a folder into a prefix, with a file for pkg-config: tools/install_capi.sh target/capi /usr/local.
# DESTDIR goes in front of where files are put, and not into what they say. `make install` builds the library first.
set -eu
from=$1 prefix=$2 to=${DESTDIR:-}$2
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -n 1)
case $prefix in
/*) ;;
*) echo "install: PREFIX is $prefix, it must begin with /" >&2; exit 1 ;;
esac
install -d "$to/lib/pkgconfig" "$to/include"
install -m 755 "$from/libsumexp.so" "$to/lib/libsumexp.so"
install -m 644 "$from/libsumexp.a" "$to/lib/libsumexp.a"
install -m 644 "$from/sumexp.h" "$to/include/sumexp.h"
# The prefix stands between the slashes of sed: those it holds, and what sed takes for itself, are escaped.
escaped=$(printf '%s' "$prefix" | sed 's/[&\/\\]/\\&/g')
sed -e "s/@PREFIX@/$escaped/" -e "s/@VERSION@/$version/" "$(dirname "$0")/../crates/sumexp-capi/sumexp.pc.in" \
    >"$to/lib/pkgconfig/sumexp.pc"
