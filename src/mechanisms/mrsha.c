/* Multiresolution-head attention (derived definition: docs/mrsha.md): head h attends between groups of S_h tokens. Heads with
 * S = 1 are softmax attention, by its own code. */
#include "mechanisms/mrsha_parts.h"

void heed_mrsha_run(heed_context *context, const mrsha_plan *plan)
{
    int64_t n_heads = plan->coarse.q.shape[1], n_fine = heed_count_fine_heads(&plan->heads.resolutions, 0, n_heads);
    if (n_fine == n_heads) {
        heed_softmax_run(context, &plan->fine);
        return;
    }
    heed_report_start(context, "mrsha", heed_mrsha_worker_bytes(plan->coarse.q.shape[3], plan->coarse.v.shape[3]));
    if (n_fine > 0) {
        softmax_plan fine = plan->fine;
        fine.only_fine = &plan->heads.resolutions;
        heed_softmax_add(context, &fine);
    }
    heed_mrsha_add_coarse(context, plan);
    if (plan->interpolates && plan->mode != HEED_MRSHA_VALUE)
        heed_mrsha_interpolate(context, plan);
}
