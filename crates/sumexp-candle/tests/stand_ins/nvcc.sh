#!/bin/sh
# nvcc as candle's build calls it. The kernels that candle launches through the driver are compiled by the real one, which
# SUMEXP_NVCC names. Those for quantised and mixture-of-experts layers, which are linked in, would take many minutes, and no test
# here calls them: they become objects without code.
set -eu
case " $* " in
*" --lib -o "*)
    while [ "$1" != -o ]; do shift; done
    shift
    exec ar crs "$@"
    ;;
*" -c -o "*)
    while [ "$1" != -o ]; do shift; done
    exec cc -x c -c -fPIC -o "$2" /dev/null
    ;;
esac
exec "$SUMEXP_NVCC" "$@"
