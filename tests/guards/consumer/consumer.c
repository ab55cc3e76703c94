/* A C program that links an installed heed: attends over two keys of equal score and expects the mean of the values. */
#include <heed.h>

#include <stdio.h>

int main(void)
{
    float q_data[2] = {1.0f, 1.0f};
    float k_data[4] = {1.0f, 0.0f, 0.0f, 1.0f};
    float v_data[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    float out_data[2] = {0.0f, 0.0f};
    heed_context *context;
    if (heed_context_create(NULL, &context, NULL, 0) != HEED_OK)
        return 1;
    heed_tensor q = heed_tensor_bhnd(q_data, HEED_FLOAT32, 1, 1, 1, 2);
    heed_tensor k = heed_tensor_bhnd(k_data, HEED_FLOAT32, 1, 1, 2, 2);
    heed_tensor v = heed_tensor_bhnd(v_data, HEED_FLOAT32, 1, 1, 2, 2);
    heed_tensor out = heed_tensor_bhnd(out_data, HEED_FLOAT32, 1, 1, 1, 2);
    heed_status status = heed_softmax_forward(context, &q, &k, &v, NULL, &out, NULL);
    heed_context_destroy(context);
    printf("heed %s: %s, out = %g %g\n", heed_version(), heed_status_text(status), (double)out_data[0],
           (double)out_data[1]);
    return status == HEED_OK && out_data[0] == 2.0f && out_data[1] == 3.0f ? 0 : 1;
}
