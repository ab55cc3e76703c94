#include "compare/program.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/heed_test_compare_XXXXXX";

int program_enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL && chdir(folder) == 0 ? 0 : -1;
}

int program_leave_folder(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return chdir("/") == 0 ? system(command) : -1;
}

static void read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

/* HEED_COMPARE_COMMAND comes from the build: the program, behind an emulator where one is needed. */
static int run_command(const char *environment, const char *arguments, const char *errors)
{
    char command[4096];
    snprintf(command, sizeof command, "%s " HEED_COMPARE_COMMAND " %s > output.txt 2> %s", environment, arguments,
             errors);
    const int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

program_result program_run(const char *environment, const char *arguments)
{
    program_result result = {.exit_code = run_command(environment, arguments, "errors.txt")};
    read_text("output.txt", result.output, sizeof result.output);
    read_text("errors.txt", result.errors, sizeof result.errors);
    return result;
}

program_result program_run_on_terminal(const char *arguments)
{
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal), 0);
    assert_int_equal(unlockpt(terminal), 0);
    /* Held open here, or the terminal would forget what was written when the program ends. */
    const int held = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(held >= 0);
    program_result result = {.exit_code = run_command("", arguments, ptsname(terminal))};
    read_text("output.txt", result.output, sizeof result.output);
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    const ssize_t n = read(terminal, result.errors, sizeof result.errors - 1);
    result.errors[n > 0 ? n : 0] = '\0';
    close(held);
    close(terminal);
    return result;
}

void program_expect(const program_result *result, int exit_code, const char *text)
{
    if (result->exit_code != exit_code || strstr(result->errors, text) == NULL ||
        (exit_code != 0 && result->output[0] != '\0')) {
        fail_msg("exit code %d and \"%s\" expected, got %d\nstderr: %s\nstdout: %s", exit_code, text, result->exit_code,
                 result->errors, result->output);
    }
}

char *program_read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fail_msg("%s was not written", path);
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    const long bytes = ftell(file);
    rewind(file);
    char *text = malloc((size_t)bytes + 1);
    assert_non_null(text);
    text[fread(text, 1, (size_t)bytes, file)] = '\0';
    fclose(file);
    return text;
}
