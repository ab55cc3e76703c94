/* pack_tile, output_tile, transpose: rows of the caller into tile layout and back, and a matrix turned over, a square of
 * vectors at a time. */
#include "kernels/kernel.h"

void HEED_FN(pack_tile)(float *t, const float *const *rows, int n_rows, int64_t n_columns, float scale)
{
    vf x[VF_LANES], factor = vf_set1(scale);
    for (int lane = 0; lane < n_rows; lane += VF_LANES) {
        for (int64_t c = 0; c < n_columns; c += VF_LANES) {
            int width = lanes_left(n_columns - c);
            HEED_UNROLL
            for (int r = 0; r < VF_LANES; r++)
                x[r] = lane + r < n_rows ? vf_load_n(rows[lane + r] + c, width) : vf_zero();
            vf_transpose(x);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++) {
                if (i < width)
                    vf_store(t + (c + i) * TILE_LANES + lane, vf_mul(x[i], factor));
            }
        }
    }
}

int HEED_FN(output_tile)(float *const *rows, const float *restrict o, const float *restrict l, int n_rows,
                         int64_t n_columns)
{
    int nan = 0;
    vf x[VF_LANES];
    for (int lane = 0; lane < n_rows; lane += VF_LANES) {
        vf total = vf_load(l + lane), inverse = vf_div(vf_set1(1.0f), total);
        vm empty = vf_eq(total, vf_zero());
        for (int64_t c = 0; c < n_columns; c += VF_LANES) {
            int width = lanes_left(n_columns - c);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++) {
                vf y = i < width ? vf_load(o + (c + i) * TILE_LANES + lane) : vf_zero();
                x[i] = vf_select(empty, vf_zero(), vf_divide(y, total, inverse));
            }
            vf_transpose(x);
            HEED_UNROLL
            for (int r = 0; r < VF_LANES; r++) {
                if (lane + r < n_rows) {
                    vf_store_n(rows[lane + r] + c, x[r], width);
                    nan |= vm_any(vf_unordered(x[r], x[r]));
                }
            }
        }
    }
    return nan;
}

void HEED_FN(transpose)(float *restrict t, int64_t t_stride, const float *restrict x, int64_t x_stride, int64_t n_rows,
                        int64_t n_columns)
{
    vf square[VF_LANES];
    for (int64_t r = 0; r < n_rows; r += VF_LANES) {
        int height = lanes_left(n_rows - r);
        for (int64_t c = 0; c < n_columns; c += VF_LANES) {
            int width = lanes_left(n_columns - c);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++)
                square[i] = i < height ? vf_load_n(x + (r + i) * x_stride + c, width) : vf_zero();
            vf_transpose(square);
            HEED_UNROLL
            for (int i = 0; i < VF_LANES; i++) {
                if (i < width)
                    vf_store_n(t + (c + i) * t_stride + r, square[i], height);
            }
        }
    }
}
