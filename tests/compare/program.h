/* Runs heed-compare as a user does and holds what it said. Every run happens in one fresh folder. */
#ifndef HEED_TEST_COMPARE_PROGRAM_H
#define HEED_TEST_COMPARE_PROGRAM_H

typedef struct program_result {
    int exit_code; /* -1: ended by a signal */
    char output[16384], errors[4096];
} program_result;

/* Setup and teardown of a CMocka group: makes the folder and goes there; goes back and removes it. */
int program_enter_folder(void **state);
int program_leave_folder(void **state);

/* Runs it with arguments as a shell reads them. `environment` stands before the command ("PATH=/nowhere"), "" for none.
 * Both outputs are pipes or files, not terminals. */
program_result program_run(const char *environment, const char *arguments);

/* The same with stderr on a terminal. */
program_result program_run_on_terminal(const char *arguments);

/* Fails the test, with all that the program said, unless it ended with `exit_code`, its stderr holds `text`, and
 * nothing was printed where the exit code is not 0. */
void program_expect(const program_result *result, int exit_code, const char *text);

/* Reads a file of the folder into memory that ends with '\0'; freed by the caller. Fails the test without the file. */
char *program_read_file(const char *path);

#endif
