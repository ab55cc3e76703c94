#!/bin/sh
# The library keeps its promises to the process it lives in: it prints nothing, aborts never, takes no lock, allocates
# only where a context is made, changes no global setting, reads the environment in one file and calls OpenBLAS from
# another. So each object may call what stands here for it, and nothing else.
#   polite_objects.sh NM OBJECT...
set -eu
nm=$1
shift

# Any object: heed itself, plain memory and text, and what compilers call by themselves (atomics of Arm, addresses of
# position-independent code).
everywhere='heed_.*|mem(cpy|set|move|cmp)|bcmp|strlen|strcmp'
everywhere="$everywhere|__aarch64_(swp|cas|ldadd|ldset|ldclr)[0-9]+_.*|_GLOBAL_OFFSET_TABLE_"
gcc_openmp='GOMP_parallel|GOMP_loop_((nonmonotonic_)?dynamic_(start|next)|end_nowait)'
clang_openmp='__kmpc_(global_thread_num|push_num_threads|fork_call|dispatch_(init|next)_8)'

# What the object of one source file may call besides.
allowed_in()
{
    case $1 in
    */api/context.c.*) echo 'aligned_alloc|free|omp_get_max_threads' ;;
    */api/softmax.c.*) echo 'snprintf|sqrt' ;;
    */api/features.c.* | */api/linear_backward.c.* | */api/linear_state.c.* | */api/mrsha_state.c.*) echo 'snprintf' ;;
    */core/context.c.*) echo 'vsnprintf' ;;
    */core/gemm.c.*) echo 'cblas_sgemm|openblas_get_config' ;;
    */core/isa.c.*) echo 'getenv|__cpu_model|__cpu_features2|__cpu_indicator_init' ;;
    */core/parallel.c.*) echo "omp_get_thread_num|$gcc_openmp|$clang_openmp" ;;
    */core/random.c.*) echo 'cos|log|sqrt' ;;
    */mechanisms/merge.c.*) echo 'exp|log1p|fmax' ;;
    */mechanisms/aft_filter.c.* | */mechanisms/features.c.* | */mechanisms/initialisers.c.*) echo 'sqrt' ;;
    */mechanisms/aft_head.c.*) echo 'exp|log' ;;
    */mechanisms/aft_rows.c.* | */mechanisms/aft_sums.c.* | */mechanisms/softmax_tile.c.*) echo 'log' ;;
    */mechanisms/groups.c.* | */mechanisms/mrsha_coarse.c.* | */mechanisms/mrsha_own.c.*) echo 'log' ;;
    */mechanisms/mrsha_step.c.*) echo 'log' ;;
    *) echo 'heed_.*' ;;
    esac
}

n_symbols=0
found_context=0
for object; do
    "$nm" --undefined-only "$object" | awk '{ sub(/@.*/, "", $NF); print $NF }' > "$object.undefined"
    n_symbols=$((n_symbols + $(wc -l < "$object.undefined")))
    if grep -Evx "$everywhere|$(allowed_in "$object")" "$object.undefined"; then
        echo "$object uses the symbols above, which are not on its list"
        exit 1
    fi
    case $object in */api/context.c.*) found_context=1 ;; esac
    rm "$object.undefined"
done
[ "$n_symbols" -gt 20 ] && [ "$found_context" = 1 ] || { echo "$n_symbols symbols: nothing was checked"; exit 1; }
echo "$n_symbols undefined symbols, all of them on the lists"
