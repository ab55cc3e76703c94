#!/bin/sh
# heed.h compiles alone, as C11 and as C++17, without a warning.
#   header_alone.sh SOURCE INCLUDE_DIR CC CXX
set -eu
source=$1 include=$2 cc=$3 cxx=$4
strict="-fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror -I$include"
"$cc" -x c -std=c11 $strict "$source"
"$cxx" -x c++ -std=c++17 $strict "$source"
echo "clean as C11 ($cc) and C++17 ($cxx)"
