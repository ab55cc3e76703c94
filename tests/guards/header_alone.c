/* The public header and its initialisers, compiled as C11 and as C++17 with every warning an error. */
#include "heed.h"

int header_alone(void);

int header_alone(void)
{
    heed_config config = HEED_CONFIG_INIT;
    heed_report report = HEED_REPORT_INIT;
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &mask;
    return config.n_threads == 1 && report.n_tasks == 0 && options.mask->window_left == -1;
}
