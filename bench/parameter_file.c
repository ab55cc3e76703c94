#include "bench/parameter_file.h"

#include "bench/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int parameter_fits(const parameter_shape *shape, int rank, const int64_t *sizes)
{
    if (rank != shape->rank)
        return 0;
    for (int i = 0; i < rank; i++) {
        const int64_t expected = shape->sizes[i], other = shape->others[i];
        const int fits = expected == 0 ? sizes[i] > 0 : sizes[i] == expected || (other > 0 && sizes[i] == other);
        if (!fits)
            return 0;
    }
    return 1;
}

/* ---- Messages --------------------------------------------------------------------------------------------------- */

/* Text that grows up to the size of its buffer. */
static void append_size(char *text, size_t size, const char *before, int64_t value)
{
    const size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%" PRId64, before, value);
}

static void append_word(char *text, size_t size, const char *before, const char *word)
{
    const size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%s", before, word);
}

static void format_expected(const parameter_shape *shape, char *text, size_t size)
{
    text[0] = '\0';
    for (int i = 0; i < shape->rank; i++) {
        const char *by = i > 0 ? " x " : "";
        if (shape->sizes[i] == 0)
            append_word(text, size, by, "any");
        else
            append_size(text, size, by, shape->sizes[i]);
        if (shape->others[i] > 0 && shape->others[i] != shape->sizes[i])
            append_size(text, size, " or ", shape->others[i]);
    }
}

void parameter_tell_sizes(const char *path, const parameter_shape *shape, int rank, const int64_t *sizes, char *message,
                          size_t message_bytes)
{
    char expected[PARAMETER_MAX_RANK * 48], got[NPY_MAX_RANK * 24] = "";
    format_expected(shape, expected, sizeof expected);
    for (int i = 0; i < rank; i++)
        append_size(got, sizeof got, i > 0 ? " x " : "", sizes[i]);
    snprintf(message, message_bytes, "%s: %s expected, got %s", path, expected, got);
}

/* ---- Files ------------------------------------------------------------------------------------------------------ */

float *parameter_read(const char *folder, const char *name, const parameter_shape *shape,
                      int64_t sizes[PARAMETER_MAX_RANK], char *message, size_t message_bytes)
{
    char path[1200];
    npy_array array;
    snprintf(path, sizeof path, "%s/%s.npy", folder, name);
    if (npy_read(path, &array, message, message_bytes) != 0)
        return NULL;
    if (!parameter_fits(shape, array.rank, array.shape)) {
        parameter_tell_sizes(path, shape, array.rank, array.shape, message, message_bytes);
        npy_free(&array);
        return NULL;
    }
    for (int i = 0; i < PARAMETER_MAX_RANK; i++)
        sizes[i] = i < array.rank ? array.shape[i] : 1;
    return array.data;
}
