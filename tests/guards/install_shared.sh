#!/bin/sh
# Builds heed anew as a shared library and installs it.
#   install_shared.sh SOURCE WORK PREFIX CC BUILD_TYPE [CMAKE_OPTION...]
set -eu
source=$1 work=$2 prefix=$3 cc=$4 build_type=$5
shift 5
rm -rf "$prefix"
cmake -S "$source" -B "$work" -DCMAKE_C_COMPILER="$cc" -DCMAKE_BUILD_TYPE="$build_type" -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_INSTALL_LIBDIR=lib -DHEED_BUILD_TESTS=OFF -DHEED_BUILD_BENCH=OFF -DHEED_BUILD_EXAMPLES=OFF "$@"
cmake --build "$work"
cmake --install "$work" --prefix "$prefix"
