/* The kernels of one instruction set, slot by slot: HEED_KERNEL_LIST names the tests. The checks are in kernel_checks/,
 * one file for each family. */
#include "core/isa.h"
#include "heed.h"
#include "kernel_checks/checks.h"
#include "support/runner.h"
#include "support/seed.h"

/* The table itself: the sizes that the checks go by. */
static void check_table(void **state)
{
    (void)state;
    assert_string_equal(kernels->isa, heed_isa_name(runner_isa()));
    assert_int_equal(kernels->tile_lanes, HEED_TILE_VECTORS * kernels->vector_lanes);
    assert_in_range(kernels->tile_lanes, 1, HEED_MAX_TILE_LANES);
}

int main(void)
{
    runner_require_isa();
    kernels = heed_isa_kernels(runner_isa());
    const struct CMUnitTest tests[] = {cmocka_unit_test(check_table),
#define HEED_KERNEL_TEST(result, name, arguments) cmocka_unit_test(check_##name),
                                       HEED_KERNEL_LIST(HEED_KERNEL_TEST)
#undef HEED_KERNEL_TEST
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
