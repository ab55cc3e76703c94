/* A .npy file is: the magic "\x93NUMPY", two bytes of version, the length of the header (2 bytes in version 1, 4 in
 * version 2, little-endian), the header, the data. The header is a Python dictionary in ASCII with the three keys
 * 'descr', 'fortran_order' and 'shape', in any order, padded with spaces and ended by a newline. */
#include "bench/npy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the data of a .npy file is read as it lies in memory");

enum {
    MAX_HEADER_BYTES = 1 << 16, /* a header holds three short entries; NumPy itself refuses more than 10000 bytes */
    HEADER_ALIGNMENT = 64
};

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};

/* What the header says. */
typedef struct npy_header {
    char descr[16];
    int fortran_order; /* -1: not said */
    int rank;          /* -1: not said */
    int64_t shape[NPY_MAX_RANK];
} npy_header;

/* Where messages go. */
typedef struct npy_report {
    const char *path;
    char *message;
    size_t message_bytes;
} npy_report;

__attribute__((format(printf, 2, 3))) static int fail(const npy_report *report, const char *format, ...)
{
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments); /* NOLINT(clang-analyzer-valist.*): started just above */
    va_end(arguments);
    if (report->message_bytes > 0)
        snprintf(report->message, report->message_bytes, "%s: %s", report->path, reason);
    return -1;
}

/* ---- The header's dictionary ------------------------------------------------------------------------------------ */

/* Steps over spaces, then over `c` if it stands there; returns whether it did. */
static int accept(const char **text, char c)
{
    while (**text == ' ' || **text == '\n')
        (*text)++;
    if (**text != c)
        return 0;
    (*text)++;
    return 1;
}

static int accept_word(const char **text, const char *word)
{
    accept(text, ' ');
    const size_t length = strlen(word);
    if (strncmp(*text, word, length) != 0)
        return 0;
    *text += length;
    return 1;
}

/* A quoted string of less than `size` characters; no escapes occur in these headers. */
static int accept_string(const char **text, char *value, size_t size)
{
    const char quote = accept(text, '\'') ? '\'' : '"';
    if (quote == '"' && !accept(text, '"'))
        return 0;
    size_t n = 0;
    while (**text != quote) {
        if (**text == '\0' || n + 1 >= size)
            return 0;
        value[n++] = *(*text)++;
    }
    value[n] = '\0';
    (*text)++;
    return 1;
}

/* (), (3,) or (2, 3, 4) */
static int accept_shape(const char **text, npy_header *header)
{
    if (!accept(text, '('))
        return 0;
    header->rank = 0;
    while (!accept(text, ')')) {
        char *end = NULL;
        errno = 0;
        const long long size = strtoll(*text, &end, 10);
        if (end == *text || errno != 0 || size < 0 || header->rank == NPY_MAX_RANK)
            return 0;
        *text = end;
        header->shape[header->rank++] = size;
        if (!accept(text, ','))
            return accept(text, ')');
    }
    return 1;
}

static int accept_entry(const char **text, npy_header *header)
{
    char key[16];
    if (!accept_string(text, key, sizeof key) || !accept(text, ':'))
        return 0;
    if (strcmp(key, "descr") == 0)
        return accept_string(text, header->descr, sizeof header->descr);
    if (strcmp(key, "shape") == 0)
        return accept_shape(text, header);
    if (strcmp(key, "fortran_order") == 0) {
        header->fortran_order = accept_word(text, "True");
        return header->fortran_order || accept_word(text, "False");
    }
    return 0;
}

static int parse_header(const char *text, npy_header *header)
{
    *header = (npy_header){.fortran_order = -1, .rank = -1};
    if (!accept(&text, '{'))
        return 0;
    while (!accept(&text, '}')) {
        if (!accept_entry(&text, header))
            return 0;
        if (!accept(&text, ',')) {
            if (!accept(&text, '}'))
                return 0;
            break;
        }
    }
    return header->descr[0] != '\0' && header->fortran_order >= 0 && header->rank >= 0;
}

/* ---- Reading ---------------------------------------------------------------------------------------------------- */

static int read_header(FILE *file, npy_header *header, const npy_report *report)
{
    unsigned char start[8];
    if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, magic, sizeof magic) != 0)
        return fail(report, "not a .npy file");
    if (start[6] != 1 && start[6] != 2)
        return fail(report, ".npy format version 1 or 2 expected, got %d", start[6]);
    unsigned char length[4] = {0};
    const size_t length_bytes = start[6] == 1 ? 2 : 4;
    if (fread(length, 1, length_bytes, file) != length_bytes)
        return fail(report, "truncated: the header ends too early");
    const uint32_t header_bytes =
        (uint32_t)length[0] | (uint32_t)length[1] << 8 | (uint32_t)length[2] << 16 | (uint32_t)length[3] << 24;
    if (header_bytes > MAX_HEADER_BYTES)
        return fail(report, "a header of %lu bytes is no array header", (unsigned long)header_bytes);
    char *text = malloc((size_t)header_bytes + 1);
    if (!text)
        return fail(report, "out of memory");
    int result = 0;
    if (fread(text, 1, header_bytes, file) != header_bytes) {
        result = fail(report, "truncated: the header ends too early");
    } else {
        text[header_bytes] = '\0';
        if (!parse_header(text, header))
            result = fail(report, "the header cannot be read");
    }
    free(text);
    return result;
}

/* The number of floats, or -1: the header asks for more than memory can hold. */
static int64_t count_elements(const npy_header *header)
{
    int64_t n = 1;
    for (int i = 0; i < header->rank; i++)
        if (__builtin_mul_overflow(n, header->shape[i], &n))
            return -1;
    return n > PTRDIFF_MAX / (int64_t)sizeof(float) ? -1 : n;
}

/* Bytes from here to the end of the file, or -1. */
static long count_bytes_left(FILE *file)
{
    const long here = ftell(file);
    if (here < 0 || fseek(file, 0, SEEK_END) != 0)
        return -1;
    const long end = ftell(file);
    return end < 0 || fseek(file, here, SEEK_SET) != 0 ? -1 : end - here;
}

static int read_data(FILE *file, const npy_header *header, npy_array *array, const npy_report *report)
{
    if (strcmp(header->descr, "<f4") != 0) {
        return fail(report, "float32 expected ('<f4'), got '%s'%s", header->descr,
                    strcmp(header->descr, "<f8") == 0 ? " (float64); save it with .astype(numpy.float32)" : "");
    }
    if (header->fortran_order)
        return fail(report, "C order expected, got Fortran order; save it with numpy.ascontiguousarray");
    const int64_t n = count_elements(header);
    if (n < 0)
        return fail(report, "the header's shape is larger than any memory");
    const int64_t bytes = n * (int64_t)sizeof(float);
    const long bytes_left = count_bytes_left(file);
    if (bytes_left != bytes) {
        return fail(report, "%s: the header asks for %lld bytes of data, the file has %ld",
                    bytes_left < bytes ? "truncated" : "too long", (long long)bytes, bytes_left);
    }
    float *data = malloc(n > 0 ? (size_t)bytes : 1);
    if (!data)
        return fail(report, "out of memory");
    if (fread(data, 1, (size_t)bytes, file) != (size_t)bytes) {
        free(data);
        return fail(report, "cannot be read");
    }
    array->rank = header->rank;
    memcpy(array->shape, header->shape, sizeof array->shape);
    array->data = data;
    return 0;
}

int npy_read(const char *path, npy_array *array, char *message, size_t message_bytes)
{
    const npy_report report = {path, message, message_bytes};
    *array = (npy_array){0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail(&report, "%s", strerror(errno));
    npy_header header = {0};
    int result = read_header(file, &header, &report);
    if (result == 0)
        result = read_data(file, &header, array, &report);
    fclose(file);
    return result;
}

/* ---- Writing ---------------------------------------------------------------------------------------------------- */

/* Fills `text` with the padded header and returns its length. 8 sizes of 19 digits fit in 256 characters. */
static size_t format_header(int rank, const int64_t *shape, char text[512])
{
    char sizes[256] = "";
    size_t n = 0;
    for (int i = 0; i < rank; i++)
        n += (size_t)snprintf(sizes + n, sizeof sizes - n, i == 0 ? "%lld" : ", %lld", (long long)shape[i]);
    size_t length = (size_t)snprintf(text, 512, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s%s), }", sizes,
                                     rank == 1 ? "," : "");
    const size_t before = sizeof magic + 4; /* magic, version, length */
    while ((before + length + 1) % HEADER_ALIGNMENT != 0)
        text[length++] = ' ';
    text[length++] = '\n';
    return length;
}

int npy_write(const char *path, int rank, const int64_t *shape, const float *data, char *message, size_t message_bytes)
{
    const npy_report report = {path, message, message_bytes};
    if (rank < 0 || rank > NPY_MAX_RANK)
        return fail(&report, "a rank of %d cannot be written", rank);
    char header[512];
    const size_t header_bytes = format_header(rank, shape, header);
    size_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= (size_t)shape[i];
    FILE *file = fopen(path, "wb");
    if (!file)
        return fail(&report, "%s", strerror(errno));
    const unsigned char version_and_length[4] = {1, 0, (unsigned char)(header_bytes & 0xff),
                                                 (unsigned char)(header_bytes >> 8)};
    const int written =
        fwrite(magic, 1, sizeof magic, file) == sizeof magic && fwrite(version_and_length, 1, 4, file) == 4 &&
        fwrite(header, 1, header_bytes, file) == header_bytes && fwrite(data, sizeof(float), n, file) == n;
    const int closed = fclose(file) == 0;
    return written && closed ? 0 : fail(&report, "cannot be written: %s", strerror(errno));
}

void npy_free(npy_array *array)
{
    free(array->data);
    *array = (npy_array){0};
}
