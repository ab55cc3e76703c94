/* Attends once with the instruction set that AUTO finds and checks its name: report_isa NAME. Run under an emulator of
 * an old processor, where an instruction from the wrong object ends the program. */
#include "heed.h"

#include <stdio.h>
#include <string.h>

enum { N_HEADS = 2, N_TOKENS = 37, N_CHANNELS = 19, N_VALUES = N_HEADS * N_TOKENS * N_CHANNELS };

static float q_data[N_VALUES], k_data[N_VALUES], v_data[N_VALUES], out_data[N_VALUES];

/* All values are 1, so that every output must be exactly 1. */
static int attend(heed_context *context)
{
    for (int i = 0; i < N_VALUES; i++) {
        q_data[i] = (float)(i % 7) - 3.0f;
        k_data[i] = (float)(i % 5) - 2.0f;
        v_data[i] = 1.0f;
    }
    heed_tensor q = heed_tensor_bhnd(q_data, HEED_FLOAT32, 1, N_HEADS, N_TOKENS, N_CHANNELS);
    heed_tensor k = heed_tensor_bhnd(k_data, HEED_FLOAT32, 1, N_HEADS, N_TOKENS, N_CHANNELS);
    heed_tensor v = heed_tensor_bhnd(v_data, HEED_FLOAT32, 1, N_HEADS, N_TOKENS, N_CHANNELS);
    heed_tensor out = heed_tensor_bhnd(out_data, HEED_FLOAT32, 1, N_HEADS, N_TOKENS, N_CHANNELS);
    if (heed_softmax_forward(context, &q, &k, &v, NULL, &out, NULL) != HEED_OK) {
        fprintf(stderr, "%s\n", heed_context_message(context));
        return 0;
    }
    for (int i = 0; i < N_VALUES; i++) {
        if (out_data[i] != 1.0f) {
            fprintf(stderr, "out[%d] = %g, expected 1\n", i, (double)out_data[i]);
            return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    char message[256];
    heed_context *context;
    if (argc != 2 || heed_context_create(NULL, &context, message, sizeof message) != HEED_OK) {
        fprintf(stderr, "usage: report_isa NAME, with HEED_ISA unset\n");
        return 2;
    }
    heed_report report = HEED_REPORT_INIT;
    int right = attend(context) && heed_context_report(context, &report) == HEED_OK;
    const char *isa = heed_isa_name(report.isa);
    printf("isa %s, expected %s\n", isa, argv[1]);
    right = right && strcmp(isa, argv[1]) == 0;
    heed_context_destroy(context);
    return right ? 0 : 1;
}
