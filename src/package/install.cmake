# What `cmake --install` lays down: the header, the library, the CMake package, heed.pc, and heed-compare with its
# samples. Everything finds its neighbours relative to itself, so the tree can be moved.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(heed_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/heed)
set(heed_generated_dir ${CMAKE_CURRENT_BINARY_DIR}/package)

install(TARGETS heed EXPORT heedTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES include/heed.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/heed)

# ---- find_package(heed) ---------------------------------------------------------------------------------------------

# The archive leaves its libraries to whoever links it; a shared object carries their names itself.
if(BUILD_SHARED_LIBS)
    set(HEED_CONFIG_OPENBLAS OFF)
    set(HEED_CONFIG_OPENMP OFF)
else()
    set(HEED_CONFIG_OPENBLAS ${HEED_BLAS})
    set(HEED_CONFIG_OPENMP ${HEED_OPENMP})
endif()
if(HEED_BLAS)
    get_filename_component(HEED_OPENBLAS_HINT ${HEED_OPENBLAS_LIBRARY} DIRECTORY)
endif()
if(HEED_OPENMP)
    get_filename_component(HEED_OPENMP_HINT ${HEED_OPENMP_RUNTIME} DIRECTORY)
endif()

configure_package_config_file(src/package/heedConfig.cmake.in ${heed_generated_dir}/heedConfig.cmake
    INSTALL_DESTINATION ${heed_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${heed_generated_dir}/heedConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${heed_generated_dir}/heedConfig.cmake ${heed_generated_dir}/heedConfigVersion.cmake
    DESTINATION ${heed_package_dir})
install(EXPORT heedTargets NAMESPACE heed:: DESTINATION ${heed_package_dir})

# ---- pkg-config -----------------------------------------------------------------------------------------------------

set(heed_pc_libs -lm)
if(HEED_OPENMP)
    if(HEED_OPENMP_HINT IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
        list(PREPEND heed_pc_libs -l${HEED_OPENMP_RUNTIME_NAME} -pthread)
    else()
        list(PREPEND heed_pc_libs -L${HEED_OPENMP_HINT} -l${HEED_OPENMP_RUNTIME_NAME} -pthread)
    endif()
endif()
if(HEED_BLAS)
    if(HEED_OPENBLAS_HINT IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES OR
       HEED_OPENBLAS_HINT STREQUAL "/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}")
        list(PREPEND heed_pc_libs -lopenblas)
    else()
        list(PREPEND heed_pc_libs -L${HEED_OPENBLAS_HINT} -lopenblas)
    endif()
endif()
list(JOIN heed_pc_libs " " heed_pc_libs)

# Where only the archive is installed, whoever links heed needs these libraries with or without --static.
if(BUILD_SHARED_LIBS)
    set(HEED_PC_LIBS "-lheed")
    set(HEED_PC_LIBS_PRIVATE "${heed_pc_libs}")
else()
    set(HEED_PC_LIBS "-lheed ${heed_pc_libs}")
    set(HEED_PC_LIBS_PRIVATE "")
endif()

# From <prefix>/<libdir>/pkgconfig up to <prefix>.
file(RELATIVE_PATH HEED_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" HEED_PC_PREFIX "${HEED_PC_PREFIX}")
configure_file(src/package/heed.pc.in ${heed_generated_dir}/heed.pc @ONLY)
install(FILES ${heed_generated_dir}/heed.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# ---- heed-compare ---------------------------------------------------------------------------------------------------

if(TARGET heed-compare)
    install(TARGETS heed-compare RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(DIRECTORY examples/data/ DESTINATION ${CMAKE_INSTALL_DATADIR}/heed/data)
endif()
