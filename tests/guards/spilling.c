/* A micro-kernel as it must not be: its accumulator lives on the stack. The guard of the hot loops must reject it. */
float spilling_micro_kernel(const float *a, const float *b, long n);

float spilling_micro_kernel(const float *a, const float *b, long n)
{
    volatile float sum = 0.0f;
    for (long i = 0; i < n; i++)
        sum = __builtin_fmaf(a[i], b[i], sum);
    return sum;
}
