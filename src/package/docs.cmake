# The target heed_docs: the reference, made from the public header, in <build>/docs/html.
find_program(HEED_DOXYGEN NAMES doxygen)
mark_as_advanced(HEED_DOXYGEN)
if(NOT HEED_DOXYGEN)
    message(FATAL_ERROR "heed: doxygen was not found. On Debian: apt-get install doxygen. "
                        "Or build without the reference: -DHEED_BUILD_DOCS=OFF")
endif()

file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/docs)
add_custom_target(heed_docs
    COMMAND ${CMAKE_COMMAND} -E env HEED_DOCS_OUTPUT=${CMAKE_CURRENT_BINARY_DIR}/docs HEED_DOCS_VERSION=${PROJECT_VERSION}
            ${HEED_DOXYGEN} docs/Doxyfile
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    COMMENT "Reference in ${CMAKE_CURRENT_BINARY_DIR}/docs/html"
    VERBATIM)
