/* Every threshold of the library, each with its reason and the measurement that set it. */
#ifndef HEED_CORE_TUNING_H
#define HEED_CORE_TUNING_H

/* Work below this runs on the calling thread: waking a team costs about 5 us, in which one core does 0.5 Mflop; from
 * four times that on a second thread gains. */
#define HEED_PARALLEL_MIN_FLOPS 2.0e6

/* Operations that take as long as an exponential and what goes with it. */
#define EXP_FLOPS 40.0

/* Outputs of so many floats go past the caches where they are written once, row by row: 16 MiB. Through the caches each
 * line would be read first. */
#define HEED_STREAM_FLOATS 4.0e6

enum {
    /* Few query rows: the keys are cut into ranges whose results are merged: HEED_EVEN_RANGES of HEED_MIN_RANGE_KEYS
     * keys, then HEED_RANGES_PER_DOUBLING for each doubling, at most HEED_MAX_RANGES. Shorter ranges give more threads
     * work but pay a merge more often: 512 keys of 128 channels are 512 KiB, some 20 us of reading against 1 us. */
    HEED_MIN_RANGE_KEYS = 512,
    HEED_EVEN_RANGES = 16,
    HEED_RANGES_PER_DOUBLING = 8,
    HEED_MAX_RANGES = 64,

    /* Tiles of few query rows with at most this many rows keep queries and outputs as rows, lanes over channels: more
     * rows fill enough lanes of a vector (measured against tiles of one vector, 8192 keys, 128 channels). */
    HEED_MAX_PLAIN_ROWS = 8,

    /* Tiles of query rows that take a block of keys through while it is in cache. Against 1, on AVX-512: 5 % at
     * 4096 tokens of 128 channels, 4 to 9 % where the heads of a token lie together, nothing at 1024 tokens in L2; 8
     * gain 1 % more and need twice the scratch. */
    HEED_GROUP_TILES = 4,

    /* Floats from one row of V to the next from which a group of tiles reads a copy: a page. At 8 heads of 128 channels
     * that lie together it gains 12 %, at 9 of 64 (half a page) nothing; at 8 of 64 it would lose 2 %. */
    HEED_FAR_ROWS = 1024,

    /* Rows of partial results that each worker's scratch holds: two tiles of the widest ISA. */
    HEED_PARTIAL_ROWS = 96,

    /* Items (tiles of rows) per thread from which a task can be one or more items; below, a task is
     * one tile, or with few query rows one range of keys. */
    HEED_ITEMS_PER_THREAD = 4,

    /* Keys after which a running sum over keys is folded into the sum of the sums: one large early term then swallows no
     * more than the late ones of its own fold. 64 leave 2.3e-6 of max|v| where one key stands e^17 above 16383 others. */
    HEED_FOLD_KEYS = 64,

    /* AFT: fewer query rows than this go key by key: a block of keys costs an exponential for each of its channels,
     * whatever the number of rows. */
    HEED_AFT_FEW_ROWS = 4,

    /* AFT: rows that take a block of keys through while it is in cache, and share its exponentials: with 384 these are
     * 3 % of the work, with 192 they would be 6 %. From so many rows on they are cut for two threads at least. */
    HEED_AFT_GROUP_ROWS = 384,
    HEED_AFT_SHARED_ROWS = 192,

    /* AFT: rows mixed together (MIX_ROWS of kernels/vec). */
    HEED_AFT_TILE_ROWS = 6,

    /* AFT: the bias of so many rows further on is asked for: rows lie too far apart for the processor to guess. */
    HEED_AFT_ROWS_AHEAD = 8,

    /* AFT: rows of q and out that are asked for ahead of the one that is stored. */
    HEED_AFT_OUTPUTS_AHEAD = 2,

    /* AFT: channels of one task: the sums of a group of rows, 1.5 MiB, stay in L2. */
    HEED_AFT_SLICE = 512,

    /* AFT-local: rows of a group, in tiles, which share the keys of their windows in cache; channels of one task: with
     * windows of 256 the buffer of weighed keys is 1.4 MiB; and the widest window that goes this way. */
    HEED_AFT_WINDOW_ROWS = 48,
    HEED_AFT_WINDOW_SLICE = 256,
    HEED_AFT_WIDEST_WINDOW = 512,

    /* AFT-conv: rows of a group, in tiles, which share one suffix; heads that go through their rows together: where they
     * lie side by side, memory then delivers whole rows of tokens. */
    HEED_AFT_CONV_ROWS = 48,
    HEED_AFT_CONV_HEADS = 8,

    /* AFT-conv on a grid: channels of one task, a row of the widest register tile; keys mixed in one go, whole columns:
     * enough to hide the chain of their den, and to be worth a row of sums. */
    HEED_AFT_GRID_SLICE = 64,
    HEED_AFT_GRID_KEYS = 44,

    /* AFT: factors of a bias that are added up in one go; longer sums are made of such ones. */
    HEED_AFT_FACTORS = 16,

    /* AFT: rows of queries, and channels of a scan, in one task. */
    HEED_AFT_ROWS = 16,
    HEED_AFT_CHANNELS = 512,

    /* Linear attention: rows whose features are found and used together, 24 KiB at 64 features; a multiple of the rows of
     * the register tile. */
    HEED_LINEAR_BLOCK = 96,

    /* Linear attention, causal: rows of a chunk, within which rows see keys one by one. Of its products only half the
     * square counts; smaller ones pay more for loading and storing the sums. */
    HEED_LINEAR_CHUNK = 30,

    /* Linear attention: rows that are asked for so many rows before they are needed: two register tiles. 24 are as good. */
    HEED_LINEAR_ROWS_AHEAD = 12,

    /* Linear attention: the keys of a head are summed up in at most HEED_LINEAR_PARTS parts of HEED_LINEAR_PART_KEYS or
     * more, by as many threads; rows in one task where threads share a head. */
    HEED_LINEAR_PARTS = 16,
    HEED_LINEAR_PART_KEYS = 480,
    HEED_LINEAR_ROWS = 480,

    /* Linear attention, backward, causal: rows of query heads whose denominators are kept for the way back, 128 KiB; and
     * how many sums are kept on the way, where there are more rows than that: up to their product every sum is found
     * twice, beyond it more often. */
    HEED_LINEAR_KEPT_ROWS = 16384,
    HEED_LINEAR_KEPT_SUMS = 16,

    /* Linear attention, steps: sums of so many floats, 16 MiB, are partly still in cache when the next token comes, and it
     * takes the heads in the other direction: 23 % at 2 MiB, 5 % at 8 MiB; at 64 MiB it would lose 4 %. */
    HEED_LINEAR_CACHED_FLOATS = 4194304,

    /* Linear attention: the most recent rows that a state may have. */
    HEED_LINEAR_MAX_RECENT = 256,

    /* heed_feature_map_apply: from so many channels on both sides of a matrix and so many rows on the product is OpenBLAS's.
     * bench_gemm, one thread, share of the FMA rate, register tiles against OpenBLAS: 64 channels 0.56 and 0.55, 128
     * 0.68 and 0.67, 256 0.75 and 0.73, 512 0.71 and 0.75, 1024 0.57 and 0.74: there the matrix leaves the caches, and
     * OpenBLAS copies it. */
    HEED_BLAS_CHANNELS = 512,
    HEED_BLAS_ROWS = 256,

    /* Rows in one task of heed_feature_map_apply. */
    HEED_FEATURE_ROWS = 480,

    /* MrsHA: tiles that share a block of pooled keys, and their queries and outputs in bytes, half of L2; tasks for each
     * thread, below which tiles are shared out rather than kept together. */
    HEED_MRSHA_TILES = 48,
    HEED_MRSHA_TILE_BYTES = 5 << 18,
    HEED_MRSHA_TASKS_PER_THREAD = 2,

    /* Rows in one task of a merge. */
    HEED_MERGE_ROWS = 64
};

#endif
