# Finds what the library is built with, and lists what it links in heed_link_libraries: imported targets of heed's own,
# which name nothing but a library. (The compile flags of OpenMP, for one, must not reach those who link heed.) They are
# global, so that an enclosing project can link heed from any of its folders, and heedConfig.cmake makes them anew where
# heed was installed.

# Headers alone: whoever links heed does not need them.
find_path(HEED_RANDOM123_INCLUDE_DIR NAMES Random123/philox.h)
mark_as_advanced(HEED_RANDOM123_INCLUDE_DIR)
if(NOT HEED_RANDOM123_INCLUDE_DIR)
    message(FATAL_ERROR "heed: Random123 was not found. On Debian: apt-get install librandom123-dev")
endif()

set(heed_link_libraries m)

if(HEED_BLAS)
    # The usual names first, which the system's administrator may have pointed at one of several builds of OpenBLAS.
    find_path(HEED_OPENBLAS_INCLUDE_DIR NAMES openblas_config.h)
    find_path(HEED_OPENBLAS_INCLUDE_DIR NAMES openblas_config.h PATH_SUFFIXES openblas openblas-pthread openblas-openmp)
    find_library(HEED_OPENBLAS_LIBRARY NAMES openblas)
    find_library(HEED_OPENBLAS_LIBRARY NAMES openblas PATH_SUFFIXES openblas openblas-pthread openblas-openmp)
    mark_as_advanced(HEED_OPENBLAS_INCLUDE_DIR HEED_OPENBLAS_LIBRARY)
    if(NOT HEED_OPENBLAS_INCLUDE_DIR OR NOT HEED_OPENBLAS_LIBRARY)
        message(FATAL_ERROR "heed: OpenBLAS was not found. On Debian: apt-get install libopenblas-dev. "
                            "Or build without it: -DHEED_BLAS=OFF")
    endif()
    if(NOT TARGET heed::openblas)
        add_library(heed::openblas INTERFACE IMPORTED GLOBAL)
        target_link_libraries(heed::openblas INTERFACE ${HEED_OPENBLAS_LIBRARY})
    endif()
    list(APPEND heed_link_libraries heed::openblas)
endif()

if(HEED_OPENMP)
    find_package(OpenMP COMPONENTS C)
    if(NOT OpenMP_C_FOUND)
        message(FATAL_ERROR "heed: the compiler has no OpenMP. On Debian clang needs libomp-dev. "
                            "Or build without it: -DHEED_OPENMP=OFF")
    endif()
    # The runtime comes first in the list of names, followed by what it needs itself.
    list(GET OpenMP_C_LIB_NAMES 0 HEED_OPENMP_RUNTIME_NAME)
    set(HEED_OPENMP_RUNTIME ${OpenMP_${HEED_OPENMP_RUNTIME_NAME}_LIBRARY})
    if(NOT TARGET heed::openmp)
        add_library(heed::openmp INTERFACE IMPORTED GLOBAL)
        target_link_libraries(heed::openmp INTERFACE ${HEED_OPENMP_RUNTIME})
        target_link_options(heed::openmp INTERFACE -pthread)
    endif()
    list(APPEND heed_link_libraries heed::openmp)
endif()
