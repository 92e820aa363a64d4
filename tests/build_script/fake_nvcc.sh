#!/bin/sh
# Stands in for nvcc in the tests of the build script: records what it is asked, says what the test wrote beside it.
PATH=/usr/bin:/bin
here=${0%/bin/nvcc}
[ "$1" = --version ] && exec cat "$here/version"

mkdir "$here/running/$$"
(
    set -- "$here"/running/*
    echo $# >>"$here/side_by_side"
)
echo "$*" >>"$here/calls"
cat "$here/log" >&2
read -r code <"$here/code"
# What is kept on the way: PTX of two architectures.
while [ "$1" != --keep-dir ]; do shift; done
for arch in 80 90a; do cat "$here/ptx_$arch" >"$2/source.compute_$arch.ptx"; done
while [ "$1" != -o ]; do shift; done
[ "$code" = 0 ] && cat "$here/image" >"$2"
sleep 0.05
rmdir "$here/running/$$"
exit "$code"
