# What train_kernel writes is what heed-compare reads: linear attention with it is nearer to softmax than with the
# weights one begins with.
#   cmake -DPROGRAM=... -DCOMPARE=... -DFOLDER=... [-DEMULATOR=...] -P check_train_kernel.cmake

# The distance to softmax that heed-compare reports of the variant, with options of ARGN.
function(measure_distance variant result)
    execute_process(COMMAND ${EMULATOR} ${COMPARE} --quick --threads 1 --sample encoder --variants ${variant}
        --json ${FOLDER}/compare.json ${ARGN} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
    file(READ ${FOLDER}/compare.json json)
    string(JSON distance GET "${json}" rows 0 softmax_distance)
    set(${result} ${distance} PARENT_SCOPE)
endfunction()

foreach(kernel IN ITEMS softplus oglu aoglu)
    file(REMOVE_RECURSE ${FOLDER})
    file(MAKE_DIRECTORY ${FOLDER})
    execute_process(COMMAND ${EMULATOR} ${PROGRAM} encoder ${kernel} ${FOLDER}/trained 10
        OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
    measure_distance(linear-${kernel} begun)
    measure_distance(linear-${kernel} trained --params ${FOLDER}/trained)
    if(NOT trained LESS begun)
        message(FATAL_ERROR "${kernel}: less than ${begun} expected of what was trained, got ${trained}")
    endif()
endforeach()
