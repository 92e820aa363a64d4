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
while [ "$1" != -o ]; do shift; done
[ "$code" = 0 ] && cat "$here/ptx" >"$2"
sleep 0.05
rmdir "$here/running/$$"
exit "$code"
