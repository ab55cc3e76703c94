#include "heed.h"

#include <stdio.h>

int main(void)
{
    /* Three keys with a value each, and two queries: one between the first two keys, one along the third. */
    float queries[2][2] = {{1, 1}, {-1, 0}}, answers[2][2] = {{0}};
    float keys[3][2] = {{9, 0}, {0, 9}, {-9, 0}}, values[3][2] = {{1, 10}, {2, 20}, {3, 30}};

    /* Views of that memory: batch, heads, tokens, channels. */
    heed_tensor q = heed_tensor_bhnd(queries, HEED_FLOAT32, 1, 1, 2, 2);
    heed_tensor k = heed_tensor_bhnd(keys, HEED_FLOAT32, 1, 1, 3, 2);
    heed_tensor v = heed_tensor_bhnd(values, HEED_FLOAT32, 1, 1, 3, 2);
    heed_tensor out = heed_tensor_bhnd(answers, HEED_FLOAT32, 1, 1, 2, 2);

    heed_context *context;
    char message[256];
    if (heed_context_create(NULL, &context, message, sizeof message) != HEED_OK) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    heed_status status = heed_softmax_forward(context, &q, &k, &v, NULL, &out, NULL);
    if (status == HEED_OK) {
        for (int i = 0; i < 2; i++)
            printf("query %d: %.2f %.2f\n", i, (double)answers[i][0], (double)answers[i][1]);
    } else {
        fprintf(stderr, "%s\n", heed_context_message(context));
    }
    heed_context_destroy(context);
    return status == HEED_OK ? 0 : 1;
}
