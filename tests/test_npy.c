/* The .npy reader and writer of heed-compare, against files that NumPy wrote (tests/data/make_npy.py). */
#include "bench/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Element i of the arrays in the files. */
static float expected_value(int i) { return ((float)i - 11.5f) / 8; }

/* HEED_TEST_DATA comes from the build. */
static const char *data_path(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", HEED_TEST_DATA, name);
    return path;
}

static void check_values(const npy_array *array)
{
    for (int i = 0; i < 24; ++i) {
        assert_true(array->data[i] == expected_value(i));
    }
}

static void check_3d(const char *name)
{
    char message[256] = "";
    npy_array array;
    if (npy_read(data_path(name), &array, message, sizeof message) != 0) {
        fail_msg("%s", message);
    }
    assert_int_equal(array.rank, 3);
    assert_int_equal(array.shape[0], 2);
    assert_int_equal(array.shape[1], 3);
    assert_int_equal(array.shape[2], 4);
    check_values(&array);
    npy_free(&array);
    assert_null(array.data);
}

static void reads_version_1(void **state)
{
    (void)state;
    check_3d("float32_3d.npy");
}

static void reads_version_2(void **state)
{
    (void)state;
    check_3d("float32_v2.npy");
}

static void reads_other_ranks(void **state)
{
    (void)state;
    char message[256];
    npy_array array;
    assert_int_equal(npy_read(data_path("float32_1d.npy"), &array, message, sizeof message), 0);
    assert_int_equal(array.rank, 1);
    assert_int_equal(array.shape[0], 24);
    check_values(&array);
    npy_free(&array);

    assert_int_equal(npy_read(data_path("float32_0d.npy"), &array, message, sizeof message), 0);
    assert_int_equal(array.rank, 0);
    assert_true(array.data[0] == -1.5f);
    npy_free(&array);

    assert_int_equal(npy_read(data_path("float32_empty.npy"), &array, message, sizeof message), 0);
    assert_int_equal(array.rank, 3);
    assert_int_equal(array.shape[1], 0);
    npy_free(&array);
}

/* A file that must be refused, and what the message must say. */
typedef struct refusal {
    const char *name, *reason;
} refusal;

static const refusal refusals[] = {
    {"missing.npy", "No such file"},
    {"float64.npy", "float32 expected ('<f4'), got '<f8' (float64)"},
    {"big_endian.npy", "float32 expected ('<f4'), got '>f4'"},
    {"int32.npy", "float32 expected ('<f4'), got '<i4'"},
    {"fortran.npy", "C order expected, got Fortran order"},
    {"float32_v3.npy", "version 1 or 2 expected, got 3"},
    {"truncated_data.npy", "truncated: the header asks for 96 bytes of data, the file has 92"},
    {"truncated_header.npy", "truncated: the header ends too early"},
    {"truncated_magic.npy", "not a .npy file"},
    {"too_long.npy", "too long: the header asks for 96 bytes of data, the file has 97"},
    {"no_magic.npy", "not a .npy file"},
    {"bad_header.npy", "the header cannot be read"},
    {".", "not a .npy file"},
};

static void refuses_in_words(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; ++i) {
        char message[256] = "";
        npy_array array;
        memset(&array, 0x5a, sizeof array);
        assert_int_equal(npy_read(data_path(refusals[i].name), &array, message, sizeof message), -1);
        assert_null(array.data);
        if (strstr(message, refusals[i].reason) == NULL || strstr(message, refusals[i].name) == NULL) {
            fail_msg("%s: \"%s\" expected in \"%s\"", refusals[i].name, refusals[i].reason, message);
        }
    }
}

/* ---- Headers that NumPy does not write --------------------------------------------------------------------------- */

static char scratch_path[] = "/tmp/heed_test_npy_XXXXXX";

static int make_scratch_file(void **state)
{
    (void)state;
    const int file = mkstemp(scratch_path);
    return file < 0 ? -1 : close(file);
}

static int remove_scratch_file(void **state)
{
    (void)state;
    return unlink(scratch_path);
}

/* Writes a version 1 file with this header and 24 floats, and reads it. */
static int read_header(const char *header, npy_array *array, char *message, size_t message_bytes)
{
    FILE *file = fopen(scratch_path, "wb");
    assert_non_null(file);
    const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)strlen(header), 0};
    fwrite(start, 1, sizeof start, file);
    fwrite(header, 1, strlen(header), file);
    for (int i = 0; i < 24; ++i) {
        const float value = expected_value(i);
        fwrite(&value, sizeof value, 1, file);
    }
    assert_int_equal(fclose(file), 0);
    return npy_read(scratch_path, array, message, message_bytes);
}

static void reads_any_python_spelling(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "{\"shape\":(2,3,4),\"fortran_order\":False,\"descr\":\"<f4\"}\n",
        "{ 'fortran_order' : False , 'descr' : '<f4' , 'shape' : ( 2 , 3 , 4 , ) , }  \n",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; ++i) {
        npy_array array;
        char message[256] = "";
        if (read_header(headers[i], &array, message, sizeof message) != 0) {
            fail_msg("%s: %s", headers[i], message);
        }
        assert_int_equal(array.rank, 3);
        assert_int_equal(array.shape[2], 4);
        check_values(&array);
        npy_free(&array);
    }
}

static void refuses_broken_headers(void **state)
{
    (void)state;
    static const refusal headers[] = {
        {"", "cannot be read"},
        {"{}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (24,)}", "cannot be read"},
        {"{'descr': '<f4, 'fortran_order': False, 'shape': (24,)}", "cannot be read"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (24,)}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (24,)", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 24}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,24)}", "cannot be read"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "larger than any memory"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}", "larger than any memory"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", "truncated"},
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; ++i) {
        npy_array array;
        char message[256] = "";
        assert_int_equal(read_header(headers[i].name, &array, message, sizeof message), -1);
        assert_null(array.data);
        if (strstr(message, headers[i].reason) == NULL) {
            fail_msg("%s: \"%s\" expected in \"%s\"", headers[i].name, headers[i].reason, message);
        }
    }
}

/* ---- Writing ----------------------------------------------------------------------------------------------------- */

static void writes_what_it_reads(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {{24}, {2, 12}, {2, 3, 4}, {1, 2, 3, 4}};
    float values[24];
    for (int i = 0; i < 24; ++i) {
        values[i] = expected_value(i);
    }
    for (int rank = 1; rank <= 4; ++rank) {
        char message[256] = "";
        npy_array array;
        assert_int_equal(npy_write(scratch_path, rank, shapes[rank - 1], values, message, sizeof message), 0);
        assert_int_equal(npy_read(scratch_path, &array, message, sizeof message), 0);
        assert_int_equal(array.rank, rank);
        assert_memory_equal(array.shape, shapes[rank - 1], (size_t)rank * sizeof(int64_t));
        check_values(&array);
        npy_free(&array);
    }
}

static size_t read_bytes(const char *path, char *bytes, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    const size_t n = fread(bytes, 1, size, file);
    fclose(file);
    return n;
}

/* The same array gives the same file as numpy.save, byte for byte. */
static void writes_what_numpy_writes(void **state)
{
    (void)state;
    static const char *const names[] = {"float32_1d.npy", "float32_3d.npy"};
    for (int i = 0; i < 2; ++i) {
        char message[256] = "", ours[1024], numpys[1024];
        npy_array array;
        assert_int_equal(npy_read(data_path(names[i]), &array, message, sizeof message), 0);
        assert_int_equal(npy_write(scratch_path, array.rank, array.shape, array.data, message, sizeof message), 0);
        npy_free(&array);
        const size_t n = read_bytes(scratch_path, ours, sizeof ours);
        assert_int_equal(n, read_bytes(data_path(names[i]), numpys, sizeof numpys));
        assert_memory_equal(ours, numpys, n);
    }
}

static void says_why_it_cannot_write(void **state)
{
    (void)state;
    const int64_t shape[] = {1};
    const float value = 1;
    char message[256] = "";
    assert_int_equal(npy_write("/nowhere/at/all.npy", 1, shape, &value, message, sizeof message), -1);
    assert_non_null(strstr(message, "/nowhere/at/all.npy: No such file"));
    /* A device that is always full: the failure shows when the file is closed. */
    assert_int_equal(npy_write("/dev/full", 1, shape, &value, message, sizeof message), -1);
    assert_non_null(strstr(message, "/dev/full: cannot be written"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_version_1),           cmocka_unit_test(reads_version_2),
        cmocka_unit_test(reads_other_ranks),         cmocka_unit_test(refuses_in_words),
        cmocka_unit_test(reads_any_python_spelling), cmocka_unit_test(refuses_broken_headers),
        cmocka_unit_test(writes_what_it_reads),      cmocka_unit_test(writes_what_numpy_writes),
        cmocka_unit_test(says_why_it_cannot_write),
    };
    return cmocka_run_group_tests(tests, make_scratch_file, remove_scratch_file);
}
