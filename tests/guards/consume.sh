#!/bin/sh
# Builds and runs a consumer of heed in a folder of its own.
#   consume.sh cmake LANGUAGE COMPILER BUILD_TYPE WORK PREFIX        find_package in an installed tree
#   consume.sh subproject LANGUAGE COMPILER BUILD_TYPE WORK SOURCE   add_subdirectory of the source tree
#   consume.sh fetch LANGUAGE COMPILER BUILD_TYPE WORK SOURCE        FetchContent of the source tree
#   consume.sh pkg-config LANGUAGE COMPILER KIND WORK PREFIX         KIND: static (pkg-config --static) or plain
set -eu
way=$1 language=$2 compiler=$3 mode=$4 work=$5 heed=$6
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"

case $way in
cmake | subproject | fetch)
    if [ "$way" = cmake ]; then where="-DCMAKE_PREFIX_PATH=$heed"; else where="-DCONSUMER_SUBPROJECT=$heed"; fi
    if [ "$way" = fetch ]; then fetch=ON; else fetch=OFF; fi
    cmake -S "$here/consumer" -B "$work" -DCONSUMER_LANGUAGE="$language" \
        -DCMAKE_"$language"_COMPILER="$compiler" -DCMAKE_BUILD_TYPE="$mode" -DCONSUMER_FETCH=$fetch "$where"
    cmake --build "$work"
    ;;
pkg-config)
    PKG_CONFIG_PATH=$(dirname "$(find "$heed" -name heed.pc)")
    export PKG_CONFIG_PATH
    if [ "$mode" = static ]; then flags=$(pkg-config --cflags --libs --static heed)
    else flags=$(pkg-config --cflags --libs heed); fi
    # The words of pkg-config's answer are separate arguments.
    # shellcheck disable=SC2086
    if [ "$language" = C ]; then
        "$compiler" -std=c11 "$here/consumer/consumer.c" -o "$work/consumer" $flags
    else
        "$compiler" -std=c++17 "$here/consumer/consumer.cc" -o "$work/consumer" $flags
    fi
    # A shared library in a folder of its own is found as a user would do it.
    library=$(find "$heed" -name 'libheed.*' | head -1)
    LD_LIBRARY_PATH=$(dirname "$library")
    export LD_LIBRARY_PATH
    ;;
esac
"$work/consumer"
