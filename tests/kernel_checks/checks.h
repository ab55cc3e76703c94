/* One check for every slot of the kernel table: a kernel without one does not compile. */
#ifndef HEED_TEST_KERNEL_CHECKS_H
#define HEED_TEST_KERNEL_CHECKS_H

#include "kernel_checks/cases.h"

#include <stdarg.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#define HEED_DECLARE_CHECK(result, name, arguments) void check_##name(void **state);
HEED_KERNEL_LIST(HEED_DECLARE_CHECK)
#undef HEED_DECLARE_CHECK

#endif
