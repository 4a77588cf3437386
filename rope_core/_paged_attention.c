/* Attention of few queries to keys and values in pages, for rope_core/kvcache/compute.

   Keys are attended to piece by piece, at most PART of them, with an online softmax in float32. The
   bits of an answer do not depend on where the pages lie, or on what else a call has. Compile with -ffp-contract=off. */
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define HAS_TARGET() __builtin_cpu_supports("x86-64-v3")
#elif defined(__aarch64__)
#define TARGET
#define HAS_TARGET() 1
#else
#error "only x86-64 and aarch64 are known to have FMA"
#endif
#define INLINE TARGET static inline __attribute__((always_inline))

enum {
    PART = 512,                /* a piece ends where the place in the row is a multiple of it */
    LANES = 8,
    AHEAD = 16384, /* bytes from what is read to what is fetched into the cache */
    GIL_PRODUCTS = 1 << 20,    /* least multiplications for which the GIL is released */
    THREAD_PRODUCTS = 1 << 24, /* least multiplications of a thread */
    MAX_THREADS = 64,
    UNIT_ROWS = 64, /* rows of scores of a unit, where it has more than one head of keys */
};
enum dtype { FLOAT32, BFLOAT16, FLOAT16, FLOAT8 }; /* FLOAT8: e4m3fn, of keys and values */

typedef float vec __attribute__((vector_size(32)));
typedef float vec_at __attribute__((vector_size(32), aligned(1), may_alias));
typedef int32_t ints __attribute__((vector_size(32)));
typedef uint16_t halves_at __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint8_t bytes_at __attribute__((vector_size(8), aligned(1), may_alias));
typedef int64_t int64_at __attribute__((aligned(1), may_alias));

typedef struct {
    const char *keys, *values;
    int64_t key_page, value_page; /* bytes from page to page */
    int64_t page_tokens, kv_heads, group, head_dim, value_dim;
    int dtype, q_dtype, out_dtype; /* dtype: of keys and values */
    const float *scales;           /* of keys [Hkv, P] and then of values in the first page, or NULL */
    int64_t scale_page;            /* floats from page to page */
    float scale, softcap; /* softcap 0: none */
    int64_t left, right;  /* keys that a query sees before and after its index */
    int64_t chunk;        /* 0: none */
    const float *sinks;   /* [H], or NULL */
    int threads;
} Call;

/* A row of the work: ROW_FIELDS numbers, the index of each query, then the segments, each
   SEGMENT_FIELDS and its pages. */
enum { QUERIES, OUT, LSE, MASK, MASK_STRIDE, MASKED, END_PLACE, SEGMENTS, ROW_FIELDS };
enum { Q, FIRST_SLOT, KEYS, FIRST_PLACE, FIRST_INDEX, PAGES, SEGMENT_FIELDS };

typedef struct {
    const Call *call;
    const int64_at **rows;
    int64_t num_rows;
    int64_t max_rows;   /* most queries * group of a row */
    int64_t unit_heads; /* heads of keys of a unit */
    int64_t *next;      /* the next unit that no thread has */
    int failed;
} Work;

/* Heads of keys of a row, which one thread attends to. */
typedef struct {
    int64_t first_head, heads;
} Unit;

INLINE vec splat(float x) { return (vec){x, x, x, x, x, x, x, x}; }

INLINE vec fma8(vec a, vec b, vec c) {
#if defined(__x86_64__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    vec out;
    for (int i = 0; i < LANES; i++) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return out;
#endif
}

INLINE vec choose(ints condition, vec a, vec b) {
    return (vec)((condition & (ints)a) | (~condition & (ints)b));
}

INLINE int64_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : dtype == FLOAT8 ? 1 : 2; }

INLINE vec half8(halves_at x) {
#if defined(__x86_64__)
    return (vec)_mm256_cvtph_ps((__m128i)x);
#else
    typedef _Float16 float16s __attribute__((vector_size(16)));
    return __builtin_convertvector((float16s)x, vec);
#endif
}

/* Eight numbers of 8 bits: 4 of the exponent, 3 of the mantissa, and no infinity. As numbers of 16
   bits with the same exponents, they are too small by a factor of 2**8. */
INLINE vec load8(const char *x) {
    const halves_at bits = __builtin_convertvector(*(const bytes_at *)x, halves_at);
    const halves_at magnitude = bits & 0x7f, is_nan = (halves_at)(magnitude == 0x7f);
    const halves_at half = (bits & 0x80) << 8 | magnitude << 7 | (is_nan & 0x7fff);
    return half8(half) * splat(256.0f);
}

INLINE vec load(const char *x, int dtype) {
    if (dtype == FLOAT32) return *(const vec_at *)x;
    if (dtype == FLOAT8) return load8(x);
    if (dtype == FLOAT16) return half8(*(const halves_at *)x);
#if defined(__x86_64__)
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16);
#else
    return (vec)(__builtin_convertvector(*(const halves_at *)x, ints) << 16);
#endif
}

INLINE void store(vec x, char *out, int dtype) {
    if (dtype == FLOAT32) {
        *(vec_at *)out = x;
    } else if (dtype == BFLOAT16) {
        ints bits = (ints)x;
        ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        ints is_nan = x != x;
        rounded = (is_nan & 0x7fc0) | (~is_nan & rounded);
        *(halves_at *)out = __builtin_convertvector(rounded, halves_at);
    } else {
#if defined(__x86_64__)
        _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph((__m256)x, 0));
#else
        typedef _Float16 float16s __attribute__((vector_size(16), aligned(1), may_alias));
        *(float16s *)out = __builtin_convertvector(x, float16s);
#endif
    }
}

/* The sum of the lanes, always in this order. */
INLINE float sum_lanes(vec x) {
#if defined(__x86_64__)
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
#else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#endif
}

/* e ** x to float32 precision for x up to 88; 0 below -87; NaN of NaN. */
INLINE vec exp8(vec x) {
    const vec magic = splat(12582912.0f); /* 1.5 * 2**23 rounds to whole numbers */
    vec bounded = choose(x < splat(-87.0f), splat(-87.0f), x);
    vec shifted = fma8(bounded, splat(1.44269504088896341f), magic);
    vec n = shifted - magic;
    vec r = fma8(n, splat(-0.693359375f), bounded);
    r = fma8(n, splat(2.12194440e-4f), r);
    vec y = splat(1.9875691500e-4f);
    y = fma8(y, r, splat(1.3981999507e-3f));
    y = fma8(y, r, splat(8.3334519073e-3f));
    y = fma8(y, r, splat(4.1665795894e-2f));
    y = fma8(y, r, splat(1.6666665459e-1f));
    y = fma8(y, r, splat(5.0000001201e-1f));
    y = fma8(y, r * r, r) + 1.0f;
    y = (vec)((ints)y + (((ints)shifted - 0x4b400000) << 23));
    y = choose(x < splat(-87.0f), splat(0.0f), y);
    return choose(x == x, y, x);
}

/* tanh of x of any size. */
INLINE vec tanh8(vec x) {
    vec bounded = choose(x < splat(-10.0f), splat(-10.0f), x);
    bounded = choose(bounded > splat(10.0f), splat(10.0f), bounded);
    vec large = 1.0f - 2.0f / (exp8(bounded + bounded) + 1.0f);
    /* the difference above has lost the digits of a small x: use the Taylor series */
    vec y = x * x;
    vec series = fma8(y, splat(0.003592128036572481f), splat(-0.008863235529902197f));
    series = fma8(y, series, splat(0.021869488536155203f));
    series = fma8(y, series, splat(-0.05396825396825397f));
    series = fma8(y, series, splat(0.13333333333333333f));
    series = fma8(y, series, splat(-0.3333333333333333f));
    series = fma8(x * y, series, x);
    return choose((y < splat(0.35f * 0.35f)), series, large);
}

/* Products of `rows` rows of q with `keys` keys: scores[r * PART + j]. The order of the sum of a
   product does not depend on how many there are. */
INLINE void score_block(const float *q, const char *k, float *scores, int64_t dim, int dtype,
                        int rows, int keys) {
    const int64_t size = size_of(dtype);
    vec sums[4][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < keys; j++) sums[r][j] = splat(0.0f);
    for (int64_t d = 0; d < dim; d += LANES) {
        vec x[4];
        for (int j = 0; j < keys; j++) x[j] = load(k + (j * dim + d) * size, dtype);
        for (int r = 0; r < rows; r++) {
            vec y = *(const vec_at *)(q + r * dim + d);
            for (int j = 0; j < keys; j++) sums[r][j] = fma8(y, x[j], sums[r][j]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < keys; j++) scores[r * PART + j] = sum_lanes(sums[r][j]);
}

INLINE void score_rows(const float *q, const char *k, float *scores, int64_t dim, int dtype,
                       int rows, int64_t num_keys) {
    const int64_t size = size_of(dtype);
    const int keys = rows == 4 ? 3 : 4;
    int64_t j = 0;
    for (; j + keys <= num_keys; j += keys) {
        for (int64_t line = 0; line < keys * dim * size; line += 64)
            __builtin_prefetch(k + (j * dim * size + AHEAD + line));
        score_block(q, k + j * dim * size, scores + j, dim, dtype, rows, keys);
    }
    for (; j < num_keys; j++)
        score_block(q, k + j * dim * size, scores + j, dim, dtype, rows, 1);
}

/* Add weights[r * PART + j] * v[j] to acc[r], over all j in order. */
INLINE void sum_block(const float *weights, const char *v, float *acc, int64_t dim, int dtype,
                      int rows, int vectors, int64_t num_keys) {
    const int64_t size = size_of(dtype);
    vec sums[4][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++) sums[r][i] = *(const vec_at *)(acc + r * dim + i * LANES);
    for (int64_t j = 0; j < num_keys; j++) {
        vec x[4];
        __builtin_prefetch(v + (num_keys + j) * dim * size); /* the same of the next head */
        for (int i = 0; i < vectors; i++) x[i] = load(v + (j * dim + i * LANES) * size, dtype);
        for (int r = 0; r < rows; r++) {
            vec weight = splat(weights[r * PART + j]);
            for (int i = 0; i < vectors; i++) sums[r][i] = fma8(weight, x[i], sums[r][i]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++) *(vec_at *)(acc + r * dim + i * LANES) = sums[r][i];
}

INLINE void sum_rows(const float *weights, const char *v, float *acc, int64_t dim, int dtype,
                     int rows, int64_t num_keys) {
    const int64_t size = size_of(dtype);
    const int vectors = rows == 1 ? 4 : 2;
    int64_t d = 0;
    for (; d + vectors * LANES <= dim; d += vectors * LANES)
        sum_block(weights, v + d * size, acc + d, dim, dtype, rows, vectors, num_keys);
    for (; d < dim; d += LANES)
        sum_block(weights, v + d * size, acc + d, dim, dtype, rows, 1, num_keys);
}

INLINE void score_tile(const float *q, const char *k, float *scores, int64_t dim, int dtype,
                       int64_t rows, int64_t num_keys) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        score_rows(q + r * dim, k, scores + r * PART, dim, dtype, 4, num_keys);
    if (rows - r == 3) score_rows(q + r * dim, k, scores + r * PART, dim, dtype, 3, num_keys);
    if (rows - r == 2) score_rows(q + r * dim, k, scores + r * PART, dim, dtype, 2, num_keys);
    if (rows - r == 1) score_rows(q + r * dim, k, scores + r * PART, dim, dtype, 1, num_keys);
}

INLINE void sum_tile(const float *weights, const char *v, float *acc, int64_t dim, int dtype,
                     int64_t rows, int64_t num_keys) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
        sum_rows(weights + r * PART, v, acc + r * dim, dim, dtype, 4, num_keys);
    if (rows - r == 3) sum_rows(weights + r * PART, v, acc + r * dim, dim, dtype, 3, num_keys);
    if (rows - r == 2) sum_rows(weights + r * PART, v, acc + r * dim, dim, dtype, 2, num_keys);
    if (rows - r == 1) sum_rows(weights + r * PART, v, acc + r * dim, dim, dtype, 1, num_keys);
}

/* constants, so that the compiler makes one loop for each dtype */
#define FOR_DTYPE(dtype, call)        \
    switch (dtype) {                  \
        case FLOAT32: call(FLOAT32);  \
            break;                    \
        case BFLOAT16: call(BFLOAT16);\
            break;                    \
        case FLOAT8: call(FLOAT8);    \
            break;                    \
        default: call(FLOAT16);       \
    }

TARGET static void scores_of(const float *q, const char *k, float *scores, int64_t dim, int dtype,
                             int64_t rows, int64_t num_keys) {
#define SCORES(dtype) score_tile(q, k, scores, dim, dtype, rows, num_keys)
    FOR_DTYPE(dtype, SCORES)
}

TARGET static void sums_of(const float *weights, const char *v, float *acc, int64_t dim, int dtype,
                           int64_t rows, int64_t num_keys) {
#define SUMS(dtype) sum_tile(weights, v, acc, dim, dtype, rows, num_keys)
    FOR_DTYPE(dtype, SUMS)
}

TARGET static int all_finite(const char *x, int64_t elements, int dtype) {
    ints found = {0};
    const ints exponent = (ints)splat(INFINITY);
    for (int64_t i = 0; i < elements; i += LANES) {
        ints bits = (ints)load(x + i * size_of(dtype), dtype);
        found |= (bits & exponent) == exponent;
    }
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= found[i];
    return !any;
}

static int64_t floor_multiple(int64_t x, int64_t size) {
    int64_t rest = x % size;
    return x - (rest < 0 ? rest + size : rest);
}

/* The keys of a segment that a query sees by its index: [*low, *high), maybe empty. */
static void visible_keys(const Call *call, int64_t index, const int64_at *segment, int64_t *low,
                         int64_t *high) {
    int64_t first = index - call->left, last = index + call->right;
    if (call->chunk) {
        int64_t start = floor_multiple(index, call->chunk);
        if (start > first) first = start;
        if (start + call->chunk - 1 < last) last = start + call->chunk - 1;
    }
    first -= segment[FIRST_INDEX];
    last -= segment[FIRST_INDEX];
    *low = first > 0 ? first : 0;
    *high = last + 1 < segment[KEYS] ? last + 1 : segment[KEYS];
}

typedef struct {
    /* rows of a unit: for each head of keys, its queries, and for these the heads of the group */
    float *q, *acc, *scores, *m, *l; /* [rows, D], [rows, Dv], [rows, PART], [rows], [rows] */
} Scratch;

/* Whether the tail mask hides the key at a place from a query. */
INLINE int is_masked(const int64_at *row, int64_t query, int64_t place) {
    int64_t column = place - (row[END_PLACE] - row[MASKED]);
    const uint8_t *mask = (const uint8_t *)row[MASK];
    return mask && column >= 0 && !mask[query * row[MASK_STRIDE] + column];
}

/* Turn the scores of a row into weights, and return the factor of what was summed before. */
TARGET static float softmax_row(float *scores, int64_t num_keys, float *m,
                                float *l) {
    const int64_t padded = (num_keys + LANES - 1) / LANES * LANES;
    for (int64_t j = num_keys; j < padded; j++) scores[j] = -INFINITY;
    vec top = splat(-INFINITY);
    for (int64_t j = 0; j < padded; j += LANES) {
        vec x = *(const vec_at *)(scores + j);
        top = choose(x > top, x, top);
    }
    float m_new = *m;
    for (int i = 0; i < LANES; i++) m_new = top[i] > m_new ? top[i] : m_new;
    float shift = m_new == -INFINITY ? 0.0f : m_new;
    vec sum = splat(0.0f);
    for (int64_t j = 0; j < padded; j += LANES) {
        vec x = exp8(*(const vec_at *)(scores + j) - splat(shift));
        *(vec_at *)(scores + j) = x;
        sum += x;
    }
    float alpha = exp8(splat(*m - shift))[0];
    *m = m_new;
    *l = *l * alpha + sum_lanes(sum);
    return alpha;
}

/* The keys of a page that a piece has: slots from `slot` on of the page with this number. */
typedef struct {
    int64_t page, slot, count;
} Tile;

INLINE Tile tile_at(const Call *call, const int64_at *segment, int64_t key, int64_t stop) {
    const int64_t at = segment[FIRST_SLOT] + key, slot = at % call->page_tokens;
    const int64_t rest = call->page_tokens - slot;
    return (Tile){(segment + SEGMENT_FIELDS)[at / call->page_tokens], slot,
                  rest < stop - key ? rest : stop - key};
}

/* The scales of the keys of a tile; behind those of all heads of keys are those of values. */
INLINE const float *scales_of(const Call *call, const Tile *tile, int64_t head) {
    return call->scales + tile->page * call->scale_page + head * call->page_tokens + tile->slot;
}

INLINE void multiply(float *x, const float *scales, int64_t rows, int64_t count) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < count; j++) x[r * PART + j] *= scales[j];
}

INLINE int are_finite(const float *x, int64_t count) {
    int finite = 1;
    for (int64_t j = 0; j < count; j++) finite &= x[j] - x[j] == 0;
    return finite;
}

/* Scale, cap and mask the scores of a piece; return whether a key is hidden from some query. */
TARGET static int mask_scores(const Call *call, const int64_at *row, const int64_at *segment,
                              const Unit *unit, int64_t start, int64_t keys, const Scratch *s) {
    const int64_t rows = row[QUERIES] * call->group, place = segment[FIRST_PLACE] + start;
    const int64_t padded = (keys + LANES - 1) / LANES * LANES;
    const int has_mask = row[MASK] && place + keys > row[END_PLACE] - row[MASKED];
    int some_hidden = has_mask;
    for (int64_t i = 0; i < rows * unit->heads; i++) {
        const int64_t query = i % rows / call->group;
        int64_t low, high;
        visible_keys(call, row[ROW_FIELDS + query], segment, &low, &high);
        low = low > start ? low - start : 0;
        high = high < start + keys ? high - start : keys;
        float *scores = s->scores + i * PART;
        for (int64_t j = 0; j < padded; j += LANES) {
            vec x = *(const vec_at *)(scores + j) * splat(call->scale);
            if (call->softcap) x = tanh8(x / splat(call->softcap)) * splat(call->softcap);
            *(vec_at *)(scores + j) = x;
        }
        if (low > 0 || high < keys) some_hidden = 1;
        for (int64_t j = 0; j < low && j < keys; j++) scores[j] = -INFINITY;
        for (int64_t j = high > 0 ? high : 0; j < keys; j++) scores[j] = -INFINITY;
        for (int64_t j = 0; has_mask && j < keys; j++)
            if (is_masked(row, query, place + j)) scores[j] = -INFINITY;
    }
    return some_hidden;
}

/* Add the values of a tile that rows see: 0 * NaN is NaN, so what a row does not see is left out. */
TARGET static void sum_visible(const Call *call, const int64_at *row, const int64_at *segment,
                               const char *v, const float *weights, float *acc, int64_t first,
                               int64_t count) {
    const int64_t size = size_of(call->dtype);
    for (int64_t r = 0; r < row[QUERIES] * call->group; r++) {
        const int64_t query = r / call->group;
        int64_t low, high;
        visible_keys(call, row[ROW_FIELDS + query], segment, &low, &high);
        for (int64_t j = 0; j < count; j++)
            if (first + j >= low && first + j < high &&
                !is_masked(row, query, segment[FIRST_PLACE] + first + j))
                sums_of(weights + r * PART + j, v + j * call->value_dim * size,
                        acc + r * call->value_dim, call->value_dim, call->dtype, 1, 1);
    }
}

/* Add the keys [start, stop) of a segment, at most PART, to the softmax of all rows. */
TARGET static void attend_piece(const Call *call, const int64_at *row, const int64_at *segment,
                                const Unit *unit, int64_t start, int64_t stop, const Scratch *s) {
    const int64_t rows = row[QUERIES] * call->group, dim = call->value_dim;
    const int64_t size = size_of(call->dtype);
    Tile tile;
    /* all heads of a page, which are next to each other, before the next page */
    for (int64_t j = start; j < stop; j += tile.count) {
        tile = tile_at(call, segment, j, stop);
        const char *page = call->keys + tile.page * call->key_page;
        for (int64_t h = 0; h < unit->heads; h++) {
            float *scores = s->scores + h * rows * PART + j - start;
            scores_of(s->q + h * rows * call->head_dim,
                      page + ((unit->first_head + h) * call->page_tokens + tile.slot) *
                                 call->head_dim * size,
                      scores, call->head_dim, call->dtype, rows, tile.count);
            if (call->scales)
                multiply(scores, scales_of(call, &tile, unit->first_head + h), rows, tile.count);
        }
    }
    const int some_hidden = mask_scores(call, row, segment, unit, start, stop - start, s);
    for (int64_t i = 0; i < rows * unit->heads; i++) {
        const float alpha = softmax_row(s->scores + i * PART, stop - start, s->m + i, s->l + i);
        if (alpha != 1.0f)
            for (int64_t d = 0; d < dim; d += LANES)
                *(vec_at *)(s->acc + i * dim + d) *= splat(alpha);
    }
    for (int64_t j = start; j < stop; j += tile.count) {
        tile = tile_at(call, segment, j, stop);
        const char *page = call->values + tile.page * call->value_page;
        for (int64_t h = 0; h < unit->heads; h++) {
            const char *v =
                page + ((unit->first_head + h) * call->page_tokens + tile.slot) * dim * size;
            float *weights = s->scores + h * rows * PART + j - start;
            float *acc = s->acc + h * rows * dim;
            const float *scales = NULL;
            if (call->scales) {
                scales = scales_of(call, &tile, call->kv_heads + unit->first_head + h);
                multiply(weights, scales, rows, tile.count);
            }
            if (!some_hidden || (all_finite(v, tile.count * dim, call->dtype) &&
                                 (!scales || are_finite(scales, tile.count))))
                sums_of(weights, v, acc, dim, call->dtype, rows, tile.count);
            else
                sum_visible(call, row, segment, v, weights, acc, j, tile.count);
        }
    }
}

/* Convert the rotated queries of a segment to float32. */
TARGET static void load_queries(const Call *call, const int64_at *row, int64_t address,
                                const Unit *unit, const Scratch *s) {
    const int64_t group = call->group, rows = row[QUERIES] * group, dim = call->head_dim;
    const int64_t size = size_of(call->q_dtype);
    for (int64_t i = 0; i < rows * unit->heads; i++) {
        const int64_t r = i % rows, kv_head = unit->first_head + i / rows;
        const int64_t head = (r / group * call->kv_heads + kv_head) * group + r % group;
        const char *from = (const char *)address + head * dim * size;
        for (int64_t d = 0; d < dim; d += LANES)
            *(vec_at *)(s->q + i * dim + d) = load(from + d * size, call->q_dtype);
    }
}

/* Let the sinks join the softmax, and write out and lse. */
TARGET static void store_rows(const Call *call, const int64_at *row, const Unit *unit,
                              const Scratch *s) {
    const int64_t group = call->group, rows = row[QUERIES] * group, dim = call->value_dim;
    const int64_t size = call->out_dtype == FLOAT32 ? 4 : 2;
    for (int64_t i = 0; i < rows * unit->heads; i++) {
        const int64_t r = i % rows, head = (unit->first_head + i / rows) * group + r % group;
        const int64_t at = r / group * call->kv_heads * group + head;
        float m = s->m[i], l = s->l[i], alpha = 1.0f, lse = -INFINITY;
        if (call->sinks) {
            const float sink = call->sinks[head], m_new = sink > m ? sink : m;
            const float shift = m_new == -INFINITY ? 0.0f : m_new;
            lse = sink;
            alpha = expf(m - shift);
            l = l * alpha + expf(sink - shift);
            m = m_new;
        }
        if (s->l[i] != 0) lse = logf(l) + m;
        const vec divisor = splat(l == 0 ? 1.0f : l);
        for (int64_t d = 0; d < dim; d += LANES) {
            vec x = *(const vec_at *)(s->acc + i * dim + d) * splat(alpha) / divisor;
            char *out = (char *)row[OUT] + (at * dim + d) * size;
            if (call->out_dtype == FLOAT32)
                store(x, out, FLOAT32);
            else if (call->out_dtype == BFLOAT16)
                store(x, out, BFLOAT16);
            else
                store(x, out, FLOAT16);
        }
        ((float *)row[LSE])[at] = lse;
    }
}

/* Attend from the queries of a row with some of the heads of keys. */
TARGET static void attend_unit(const Call *call, const int64_at *row, const Unit *unit,
                               const Scratch *s) {
    const int64_t rows = row[QUERIES] * call->group * unit->heads;
    for (int64_t i = 0; i < rows; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc, 0, rows * call->value_dim * sizeof(float));
    const int64_at *segment = row + ROW_FIELDS + row[QUERIES];
    int64_t loaded = 0;
    for (int64_t i = 0; i < row[SEGMENTS]; i++, segment += SEGMENT_FIELDS + segment[PAGES]) {
        /* the keys that some query sees */
        int64_t start = segment[KEYS], end = 0;
        for (int64_t query = 0; query < row[QUERIES]; query++) {
            int64_t low, high;
            visible_keys(call, row[ROW_FIELDS + query], segment, &low, &high);
            if (low >= high) continue;
            if (low < start) start = low;
            if (high > end) end = high;
        }
        if (start < end && segment[Q] != loaded) {
            loaded = segment[Q];
            load_queries(call, row, loaded, unit, s);
        }
        while (start < end) {
            const int64_t place = segment[FIRST_PLACE];
            int64_t stop = floor_multiple(place + start, PART) + PART - place;
            if (stop > end) stop = end;
            attend_piece(call, row, segment, unit, start, stop, s);
            start = stop;
        }
    }
    store_rows(call, row, unit, s);
}

static void *run_units(void *argument) {
    Work *work = argument;
    const Call *call = work->call;
    const int64_t rows = work->max_rows * work->unit_heads;
    const int64_t per_row = (call->kv_heads + work->unit_heads - 1) / work->unit_heads;
    const int64_t floats = rows * (call->head_dim + call->value_dim + PART + 2);
    float *memory = malloc(floats * sizeof(float));
    if (!memory) {
        work->failed = 1;
        return NULL;
    }
    Scratch s = {.q = memory, .acc = memory + rows * call->head_dim};
    s.scores = s.acc + rows * call->value_dim;
    s.m = s.scores + rows * PART;
    s.l = s.m + rows;
    for (;;) {
        const int64_t i = __atomic_fetch_add(work->next, 1, __ATOMIC_RELAXED);
        if (i >= work->num_rows * per_row) break;
        Unit unit = {i % per_row * work->unit_heads, work->unit_heads};
        if (unit.first_head + unit.heads > call->kv_heads)
            unit.heads = call->kv_heads - unit.first_head;
        attend_unit(call, work->rows[i / per_row], &unit, &s);
    }
    free(memory);
    return NULL;
}

static int run_threads(Work *work, int64_t threads) {
    pthread_t ids[MAX_THREADS];
    int started[MAX_THREADS] = {0};
    Work parts[MAX_THREADS];
    int failed = 0;
    for (int64_t i = 1; i < threads; i++) {
        parts[i] = *work;
        started[i] = !pthread_create(&ids[i], NULL, run_units, &parts[i]);
    }
    run_units(work);
    for (int64_t i = 1; i < threads; i++)
        if (started[i]) {
            pthread_join(ids[i], NULL);
            failed |= parts[i].failed;
        }
    return failed | work->failed;
}

enum { CALL_INTEGERS = 21 };

/* work (int64: the number of rows, then the rows), keys, values, key_page, value_page, page_tokens,
   kv_heads, group, head_dim, value_dim, dtype, out_dtype, left, right, chunk, sinks, threads,
   products, q_dtype, scales, scale_page, then scale and softcap */
static PyObject *attend(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    (void)module;
    int64_t v[CALL_INTEGERS];
    if (num_args != CALL_INTEGERS + 2) {
        PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", CALL_INTEGERS + 2, num_args);
        return NULL;
    }
    for (int i = 0; i < CALL_INTEGERS; i++) v[i] = PyLong_AsLongLong(args[i]);
    Call call = {
        .keys = (const char *)v[1], .values = (const char *)v[2],
        .key_page = v[3], .value_page = v[4], .page_tokens = v[5],
        .kv_heads = v[6], .group = v[7], .head_dim = v[8], .value_dim = v[9],
        .dtype = (int)v[10], .out_dtype = (int)v[11],
        .left = v[12], .right = v[13], .chunk = v[14],
        .sinks = (const float *)v[15],
        .q_dtype = (int)v[18], .scales = (const float *)v[19], .scale_page = v[20],
        .scale = (float)PyFloat_AsDouble(args[CALL_INTEGERS]),
        .softcap = (float)PyFloat_AsDouble(args[CALL_INTEGERS + 1]),
    };
    if (PyErr_Occurred()) return NULL;
    if (call.page_tokens < 1 || call.kv_heads < 1 || call.group < 1 || call.head_dim < LANES ||
        call.head_dim % LANES || call.value_dim < LANES || call.value_dim % LANES ||
        call.chunk < 0) {
        PyErr_SetString(PyExc_ValueError, "not attention of few queries");
        return NULL;
    }
    const int64_at *numbers = (const int64_at *)v[0];
    const int64_t num_rows = *numbers++;
    const int64_at **rows = malloc((num_rows + 1) * sizeof *rows);
    if (!rows) return PyErr_NoMemory();
    int64_t next = 0;
    Work work = {.call = &call, .rows = rows, .num_rows = num_rows, .next = &next};
    for (int64_t i = 0; i < num_rows; i++) {
        rows[i] = numbers;
        if (numbers[QUERIES] * call.group > work.max_rows)
            work.max_rows = numbers[QUERIES] * call.group;
        const int64_at *segment = numbers + ROW_FIELDS + numbers[QUERIES];
        for (int64_t j = 0; j < numbers[SEGMENTS]; j++) segment += SEGMENT_FIELDS + segment[PAGES];
        numbers = segment;
    }
    int64_t threads = v[16], most = v[17] / THREAD_PRODUCTS;
    threads = threads < most ? threads : most;
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    /* all heads of few queries, whose keys are next to each other, unless threads would be idle */
    int64_t heads = UNIT_ROWS / (work.max_rows ? work.max_rows : 1);
    if (num_rows < 2 * threads && heads > call.kv_heads / threads) heads = call.kv_heads / threads;
    work.unit_heads = heads < 1 ? 1 : heads > call.kv_heads ? call.kv_heads : heads;
    int failed;
    if (v[17] < GIL_PRODUCTS) {
        failed = run_threads(&work, 1);
    } else {
        Py_BEGIN_ALLOW_THREADS
        failed = run_threads(&work, threads);
        Py_END_ALLOW_THREADS
    }
    free(rows);
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"attend", (PyCFunction)(void (*)(void))attend, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "rope_core._paged_attention", .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__paged_attention(void) {
    if (!HAS_TARGET()) {
        PyErr_SetString(PyExc_ImportError, "the processor is older than x86-64-v3");
        return NULL;
    }
    return PyModule_Create(&definition);
}
