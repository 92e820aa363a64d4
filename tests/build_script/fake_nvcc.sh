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
read -r code <"$here/code"
# From CUDA C++ to PTX, which has its messages if it fails, or from PTX to an image, with those of ptxas.
case "$*" in *.cu) step=ptx ;; *) step=image ;; esac
[ "$step$code" = ptx0 ] || cat "$here/log" >&2
case "$*" in *-arch=compute_90a*) arch=90a ;; *) arch=80 ;; esac
while [ "$1" != -o ]; do shift; done
[ $step = image ] && from="$here/image" || from="$here/ptx_$arch"
[ "$code" = 0 ] && cat "$from" >"$2"
sleep 0.05
rmdir "$here/running/$$"
exit "$code"
