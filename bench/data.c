#include "bench/data.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* HEED_SOURCE_DATA and HEED_INSTALLED_DATA (relative to the program's own folder) come from the build. */
void data_find_folder(char *folder, size_t size)
{
    char program[1024];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) {
        program[length] = '\0';
        char *slash = strrchr(program, '/');
        if (slash) {
            *slash = '\0';
            snprintf(folder, size, "%s/%s", program, HEED_INSTALLED_DATA);
            if (access(folder, R_OK) == 0)
                return;
        }
    }
    snprintf(folder, size, "%s", HEED_SOURCE_DATA);
}
