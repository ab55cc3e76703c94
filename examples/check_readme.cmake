# README.md shows a program and what it prints, each in a fenced block: both must be what they are.
#   cmake -DREADME=... -DSOURCE=... -DPROGRAM=... [-DEMULATOR=...] -P check_readme.cmake
file(READ ${README} readme)
file(READ ${SOURCE} source)
execute_process(COMMAND ${EMULATOR} ${PROGRAM} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)

string(FIND "${readme}" "```c\n${source}```\n" at)
if(at EQUAL -1)
    message(FATAL_ERROR "${README} does not show ${SOURCE} as it is")
endif()
string(FIND "${readme}" "```text\n${output}```\n" at)
if(output STREQUAL "" OR at EQUAL -1)
    message(FATAL_ERROR "${README} does not show what ${PROGRAM} prints:\n${output}")
endif()
