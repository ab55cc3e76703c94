#!/bin/sh
# The library keeps its promises to the process it lives in: it prints nothing, aborts never, takes no lock, allocates
# only where a context is made, changes no global setting, reads the environment in one file and calls OpenBLAS from
# another.
#   polite_objects.sh NM OBJECT...
set -eu
nm=$1
shift
never='printf|vprintf|fprintf|vfprintf|puts|fputs|putchar|fwrite|stdout|stderr|perror|abort|exit|_exit|__assert_fail'
never="$never|malloc|calloc|realloc|posix_memalign|strdup|pthread_.*|mtx_.*|sem_.*|call_once"
never="$never|setenv|putenv|setlocale|signal|sigaction|srand|rand|fesetround|feenableexcept|fesetenv|strerror"
never="$never|omp_set_.*|goto_set_.*|openblas_set_.*"
n_symbols=0
found_context=0
for object; do
    "$nm" --undefined-only "$object" | awk '{ sub(/@.*/, "", $NF); print $NF }' > "$object.undefined"
    n_symbols=$((n_symbols + $(wc -l < "$object.undefined")))
    if grep -Ex "$never" "$object.undefined"; then
        echo "$object uses the symbols above"
        exit 1
    fi
    # What one file alone may do.
    case $object in
    */context.c.*) elsewhere='getenv|cblas_.*|openblas_.*' found_context=1 ;;
    *core/isa.c.*) elsewhere='aligned_alloc|free|cblas_.*|openblas_.*' ;;
    *core/gemm.c.*) elsewhere='getenv|aligned_alloc|free' ;;
    *) elsewhere='getenv|aligned_alloc|free|cblas_.*|openblas_.*' ;;
    esac
    if grep -Ex "$elsewhere" "$object.undefined"; then
        echo "$object uses the symbols above: allocation belongs in the context.c of api/ and core/, the environment in" \
            "src/core/isa.c, OpenBLAS in src/core/gemm.c"
        exit 1
    fi
    rm "$object.undefined"
done
[ "$n_symbols" -gt 20 ] && [ "$found_context" = 1 ] || { echo "$n_symbols symbols: nothing was checked"; exit 1; }
echo "$n_symbols undefined symbols, all of them polite"
