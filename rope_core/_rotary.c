/* Rotary position embedding of tokens [T, H, D] in memory, for rope_core/compiled.py.

   A pair (a, b) of channels becomes (fma(-b, sin, a * cos), fma(a, sin, b * cos)): bit-equal to
   torch's mul and addcmul where torch has FMA. Compile with -ffp-contract=off. */
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

/* One target for each architecture: an AVX-512 build was not faster. */
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
#define INLINE static inline __attribute__((always_inline))

enum {
    MAX_WIDTH = 1024,          /* rotary channels of a head */
    GIL_ELEMENTS = 1 << 18,    /* least elements for which the GIL is released */
    THREAD_ELEMENTS = 1 << 20, /* least elements of a thread: to start it takes a fifth of their time */
    MAX_THREADS = 64,
};
enum dtype { FLOAT32, BFLOAT16, FLOAT16 };

#define MAGNITUDE 0x7fffffffu

/* Tensors of a request may lie at any byte. */
typedef float float_at __attribute__((aligned(1), may_alias));
typedef uint32_t uint32_at __attribute__((aligned(1), may_alias));
typedef uint16_t uint16_at __attribute__((aligned(1), may_alias));
typedef int64_t int64_at __attribute__((aligned(1), may_alias));

typedef struct {
    const float *cos, *sin; /* [rows, pairs] */
    Py_ssize_t rows, pairs;
    Py_ssize_t heads, head_dim, start; /* channels start to start + 2 * pairs are rotated */
    int dtype, interleaved, inverse, threads;
} Rotation;

typedef struct {
    const Rotation *rotation;
    const char *x;
    char *out;
    Py_ssize_t x_strides[2], out_strides[2]; /* bytes from token to token, from head to head */
    const int64_at *positions;               /* [T], rows of the table; NULL: token t has row t */
    Py_ssize_t begin, end;                   /* tokens */
    uint32_t top;                            /* float32 bits of the largest |x| read */
} Work;

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Round to nearest even: the upper 16 bits are a bfloat16. A NaN stays one if its lower 16 bits are
   0, as those of bfloat16 numbers and of quiet_nan are. */
INLINE uint32_t round_bfloat16(float value) {
    uint32_t bits = bits_of(value);
    return bits + 0x7fff + ((bits >> 16) & 1);
}

INLINE float quiet_nan(float value) { return value != value ? float_of(0x7fc00000) : value; }

#if defined(__x86_64__)
TARGET static inline void from_float16(const uint16_at *x, float *out, Py_ssize_t n) {
    Py_ssize_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    for (; i < n; i++) out[i] = _cvtsh_ss(x[i]);
}

TARGET static inline void to_float16(const float *x, uint16_at *out, Py_ssize_t n) {
    Py_ssize_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
    for (; i < n; i++) out[i] = _cvtss_sh(x[i], 0);
}
#else
typedef _Float16 float16_at __attribute__((aligned(1), may_alias));

static inline void from_float16(const uint16_at *x, float *out, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) out[i] = (float)((const float16_at *)x)[i];
}

static inline void to_float16(const float *x, uint16_at *out, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) ((float16_at *)out)[i] = (_Float16)x[i];
}
#endif

INLINE void rotate_pair(float *a, float *b, float cos, float sin, int inverse) {
    float out_a = __builtin_fmaf(inverse ? *b : -*b, sin, *a * cos);
    *b = __builtin_fmaf(inverse ? -*a : *a, sin, *b * cos);
    *a = out_a;
}

/* The functions below rotate one head: `x` and `out` of 2 * pairs channels, the same memory or
   apart. That of float32 returns the bits of the largest |x|. */

INLINE uint32_t rotate_float32(const float_at *x, float_at *out, const float *cos, const float *sin,
                               Py_ssize_t pairs, int interleaved, int inverse) {
    uint32_t top = 0;
    const Py_ssize_t step = interleaved ? 2 : 1, partner = interleaved ? 1 : pairs;
#pragma GCC ivdep
    for (Py_ssize_t i = 0; i < pairs; i++) {
        float a = x[step * i], b = x[step * i + partner];
        top = larger(top, larger(bits_of(a) & MAGNITUDE, bits_of(b) & MAGNITUDE));
        rotate_pair(&a, &b, cos[i], sin[i], inverse);
        out[step * i] = a;
        out[step * i + partner] = b;
    }
    return top;
}

/* Two bfloat16 in a word of 32 bits become float32 by a shift and a mask: no lane moves. */
#define FIRST(word) ((word) << 16)
#define SECOND(word) ((word) & 0xffff0000u)

INLINE uint32_t join_bfloat16(float first, float second) {
    return (round_bfloat16(first) >> 16) | SECOND(round_bfloat16(second));
}

INLINE void rotate_interleaved_bfloat16(const uint16_at *x, uint16_at *out, const float *cos,
                                        const float *sin, Py_ssize_t pairs, int inverse) {
#pragma GCC ivdep
    for (Py_ssize_t i = 0; i < pairs; i++) {
        uint32_t word = ((const uint32_at *)x)[i];
        float a = float_of(FIRST(word)), b = float_of(SECOND(word));
        rotate_pair(&a, &b, cos[i], sin[i], inverse);
        ((uint32_at *)out)[i] = join_bfloat16(a, b);
    }
}

/* Layout "half": a word has channels 2 i and 2 i + 1, of two pairs. cos and sin have the even
   channels first. */
INLINE void rotate_half_bfloat16(const uint16_at *x, uint16_at *out, const float *cos,
                                 const float *sin, Py_ssize_t pairs, int inverse) {
    const Py_ssize_t words = pairs / 2;
    const float *cos_odd = cos + words, *sin_odd = sin + words;
    const uint32_at *a_words = (const uint32_at *)x, *b_words = (const uint32_at *)(x + pairs);
    uint32_at *out_a = (uint32_at *)out, *out_b = (uint32_at *)(out + pairs);
    if (pairs % 2) {
        const Py_ssize_t last = pairs - 1;
        float a = float_of((uint32_t)x[last] << 16);
        float b = float_of((uint32_t)x[last + pairs] << 16);
        rotate_pair(&a, &b, cos[last], sin[last], inverse);
        out[last] = (uint16_t)(round_bfloat16(a) >> 16);
        out[last + pairs] = (uint16_t)(round_bfloat16(b) >> 16);
    }
#pragma GCC ivdep
    for (Py_ssize_t i = 0; i < words; i++) {
        uint32_t a = a_words[i], b = b_words[i];
        float a_even = float_of(FIRST(a)), a_odd = float_of(SECOND(a));
        float b_even = float_of(FIRST(b)), b_odd = float_of(SECOND(b));
        rotate_pair(&a_even, &b_even, cos[i], sin[i], inverse);
        rotate_pair(&a_odd, &b_odd, cos_odd[i], sin_odd[i], inverse);
        out_a[i] = join_bfloat16(a_even, a_odd);
        out_b[i] = join_bfloat16(b_even, b_odd);
    }
}

/* Copy a row of a table for bfloat16. Layout "half": even channels first, then odd ones; the last
   channel of an odd number of pairs stays last. */
INLINE void copy_row(const float *row, float *copy, Py_ssize_t pairs, int interleaved) {
    const Py_ssize_t words = interleaved ? 0 : pairs / 2;
    for (Py_ssize_t i = 0; i < words; i++) {
        copy[i] = quiet_nan(row[2 * i]);
        copy[words + i] = quiet_nan(row[2 * i + 1]);
    }
    for (Py_ssize_t i = 2 * words; i < pairs; i++) copy[i] = quiet_nan(row[i]);
}

TARGET static uint32_t max_magnitude(const char *x, Py_ssize_t n, int dtype) {
    uint32_t top = 0;
    if (dtype == FLOAT32) {
        for (Py_ssize_t i = 0; i < n; i++)
            top = larger(top, ((const uint32_at *)x)[i] & MAGNITUDE);
        return top;
    }
    uint16_t top16 = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        uint16_t magnitude = ((const uint16_at *)x)[i] & 0x7fff;
        top16 = magnitude > top16 ? magnitude : top16;
    }
    if (dtype == BFLOAT16) return (uint32_t)top16 << 16;
    float top32;
    from_float16(&top16, &top32, 1);
    return bits_of(top32);
}

INLINE uint32_t rotate_tokens(const Work *work, int dtype, int interleaved, int inverse) {
    const Rotation *r = work->rotation;
    const Py_ssize_t size = dtype == FLOAT32 ? 4 : 2;
    const Py_ssize_t before = r->start, after = r->head_dim - r->start - 2 * r->pairs;
    float scratch[MAX_WIDTH];
    uint32_t top = 0;
    for (Py_ssize_t t = work->begin; t < work->end; t++) {
        Py_ssize_t row = work->positions ? work->positions[t] : t;
        const float *cos = r->cos + row * r->pairs, *sin = r->sin + row * r->pairs;
        const char *x = work->x + t * work->x_strides[0];
        char *out = work->out + t * work->out_strides[0];
        if (dtype == BFLOAT16) {
            copy_row(cos, scratch, r->pairs, interleaved);
            copy_row(sin, scratch + r->pairs, r->pairs, interleaved);
            cos = scratch;
            sin = scratch + r->pairs;
            if (work->x_strides[1] == r->head_dim * size) /* one pass of all heads is faster */
                top = larger(top, max_magnitude(x, r->heads * r->head_dim, dtype));
            else
                for (Py_ssize_t h = 0; h < r->heads; h++)
                    top = larger(top, max_magnitude(x + h * work->x_strides[1], r->head_dim, dtype));
        }
        for (Py_ssize_t h = 0; h < r->heads; h++) {
            const char *from = x + before * size;
            char *to = out + before * size;
            if (dtype == FLOAT32) {
                top = larger(top, rotate_float32((const float_at *)from, (float_at *)to, cos, sin,
                                                 r->pairs, interleaved, inverse));
            } else if (dtype == BFLOAT16 && interleaved) {
                rotate_interleaved_bfloat16((const uint16_at *)from, (uint16_at *)to, cos, sin,
                                            r->pairs, inverse);
            } else if (dtype == BFLOAT16) {
                rotate_half_bfloat16((const uint16_at *)from, (uint16_at *)to, cos, sin, r->pairs,
                                     inverse);
            } else {
                from_float16((const uint16_at *)from, scratch, 2 * r->pairs);
                top = larger(top, rotate_float32(scratch, scratch, cos, sin, r->pairs, interleaved,
                                                 inverse));
                to_float16(scratch, (uint16_at *)to, 2 * r->pairs);
            }
            if (before + after) { /* channels that pass through */
                const Py_ssize_t end = before + 2 * r->pairs;
                if (dtype != BFLOAT16) {
                    top = larger(top, max_magnitude(x, before, dtype));
                    top = larger(top, max_magnitude(x + end * size, after, dtype));
                }
                if (x != out) {
                    memcpy(out, x, before * size);
                    memcpy(out + end * size, x + end * size, after * size);
                }
            }
            x += work->x_strides[1];
            out += work->out_strides[1];
        }
    }
    return top;
}

TARGET static void *run_part(void *argument) {
    Work *work = argument;
    const Rotation *r = work->rotation;
    /* constants, so that the compiler makes one loop for each case */
    switch (r->dtype * 4 + r->interleaved * 2 + r->inverse) {
#define CASE(dtype, interleaved, inverse)                               \
    case dtype * 4 + interleaved * 2 + inverse:                         \
        work->top = rotate_tokens(work, dtype, interleaved, inverse);   \
        break;
#define CASES(dtype) CASE(dtype, 0, 0) CASE(dtype, 0, 1) CASE(dtype, 1, 0) CASE(dtype, 1, 1)
        CASES(FLOAT32)
        CASES(BFLOAT16)
        CASES(FLOAT16)
    }
    return NULL;
}

/* Divide the tokens over threads. A part for which no thread can be made runs here. */
static void run_parts(Work *work, int threads) {
    Work parts[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    int started[MAX_THREADS];
    const Py_ssize_t tokens = work->end;
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    for (int i = 0; i < threads; i++) {
        parts[i] = *work;
        parts[i].begin = tokens * i / threads;
        parts[i].end = tokens * (i + 1) / threads;
        started[i] = i && !pthread_create(&ids[i], NULL, run_part, &parts[i]);
    }
    for (int i = 0; i < threads; i++)
        if (!started[i]) run_part(&parts[i]);
    for (int i = 0; i < threads; i++) {
        if (started[i]) pthread_join(ids[i], NULL);
        work->top = larger(work->top, parts[i].top);
    }
}

/* Return the largest |x| as a Python float, or -1.0 where a position has no row: then nothing was
   written. */
static PyObject *run(Work *work) {
    const Rotation *r = work->rotation;
    int outside = !work->positions && work->end > r->rows;
    for (Py_ssize_t t = 0; work->positions && t < work->end; t++)
        outside |= (uint64_t)work->positions[t] >= (uint64_t)r->rows;
    if (outside) return PyFloat_FromDouble(-1.0);
    const Py_ssize_t elements = work->end * r->heads * r->head_dim;
    if (elements < GIL_ELEMENTS) {
        run_part(work);
    } else {
        const Py_ssize_t most = elements / THREAD_ELEMENTS;
        Py_BEGIN_ALLOW_THREADS
        run_parts(work, most < r->threads ? (int)most : r->threads);
        Py_END_ALLOW_THREADS
    }
    return PyFloat_FromDouble(float_of(work->top));
}

/* Read `count` integers; return 0, or -1 with an exception. */
static int read_integers(PyObject *const *args, Py_ssize_t num_args, Py_ssize_t *values,
                         Py_ssize_t count) {
    if (num_args != count) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", count, num_args);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = PyLong_AsSsize_t(args[i]);
        if (values[i] == -1 && PyErr_Occurred()) return -1;
    }
    return 0;
}

enum { ROTATION_INTEGERS = 11 };

/* cos, sin, rows, pairs, heads, head_dim, start, dtype, interleaved, inverse, threads */
static int read_rotation(Rotation *r, const Py_ssize_t *values) {
    r->cos = (const float *)values[0];
    r->sin = (const float *)values[1];
    r->rows = values[2];
    r->pairs = values[3];
    r->heads = values[4];
    r->head_dim = values[5];
    r->start = values[6];
    r->dtype = (int)values[7];
    r->interleaved = values[8] != 0;
    r->inverse = values[9] != 0;
    r->threads = values[10] < MAX_THREADS ? (int)values[10] : MAX_THREADS;
    if (r->rows < 0 || r->pairs < 0 || r->pairs > MAX_WIDTH / 2 || r->heads < 0 || r->start < 0 ||
        r->start > r->head_dim - 2 * r->pairs || r->dtype < FLOAT32 || r->dtype > FLOAT16) {
        PyErr_SetString(PyExc_ValueError, "not a rotation");
        return -1;
    }
    return 0;
}

static PyObject *rotate(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    (void)module;
    Py_ssize_t values[ROTATION_INTEGERS + 7];
    Rotation rotation;
    if (read_integers(args, num_args, values, ROTATION_INTEGERS + 7)) return NULL;
    if (read_rotation(&rotation, values)) return NULL;
    const Py_ssize_t *rest = values + ROTATION_INTEGERS;
    const Py_ssize_t size = rotation.dtype == FLOAT32 ? 4 : 2;
    Work work = {
        .rotation = &rotation,
        .x = (const char *)rest[0],
        .x_strides = {rest[1] * size, rest[2] * size},
        .out = (char *)rest[3],
        .out_strides = {rest[4] * size, rest[5] * size},
        .end = rest[6],
    };
    return run(&work);
}

static PyObject *max_abs(PyObject *module, PyObject *const *args, Py_ssize_t num_args) {
    (void)module;
    Py_ssize_t values[3]; /* address, elements, dtype */
    if (read_integers(args, num_args, values, 3)) return NULL;
    uint32_t top;
    if (values[1] < GIL_ELEMENTS) {
        top = max_magnitude((const char *)values[0], values[1], (int)values[2]);
    } else {
        Py_BEGIN_ALLOW_THREADS
        top = max_magnitude((const char *)values[0], values[1], (int)values[2]);
        Py_END_ALLOW_THREADS
    }
    return PyFloat_FromDouble(float_of(top));
}

typedef struct {
    PyObject_HEAD
    Rotation rotation;
    PyObject *owner; /* keeps the memory of cos and sin */
} TokenRotation;

static PyObject *token_rotation_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    Py_ssize_t v[ROTATION_INTEGERS];
    PyObject *owner;
    if (!PyArg_ParseTuple(args, "nnnnnnnnnnnO", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7,
                          v + 8, v + 9, v + 10, &owner))
        return NULL;
    Rotation rotation;
    if (read_rotation(&rotation, v)) return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    TokenRotation *self = (TokenRotation *)allocate(type, 0);
    if (self) {
        self->rotation = rotation;
        Py_INCREF(owner);
        self->owner = owner;
    }
    return (PyObject *)self;
}

static void token_rotation_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((TokenRotation *)self)->owner);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *token_rotation_run(PyObject *self, PyObject *const *args, Py_ssize_t num_args) {
    Py_ssize_t values[4]; /* x, out, positions, tokens */
    if (read_integers(args, num_args, values, 4)) return NULL;
    const Rotation *r = &((TokenRotation *)self)->rotation;
    const Py_ssize_t head_bytes = r->head_dim * (r->dtype == FLOAT32 ? 4 : 2);
    Work work = {
        .rotation = r,
        .x = (const char *)values[0],
        .x_strides = {r->heads * head_bytes, head_bytes},
        .out = (char *)values[1],
        .out_strides = {r->heads * head_bytes, head_bytes},
        .positions = (const int64_at *)values[2],
        .end = values[3],
    };
    return run(&work);
}

static PyMethodDef token_rotation_methods[] = {
    {"run", (PyCFunction)(void (*)(void))token_rotation_run, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot token_rotation_slots[] = {
    {Py_tp_new, token_rotation_new},
    {Py_tp_dealloc, token_rotation_dealloc},
    {Py_tp_methods, token_rotation_methods},
    {0, NULL},
};

static PyType_Spec token_rotation_spec = {
    .name = "rope_core._rotary.TokenRotation",
    .basicsize = sizeof(TokenRotation),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = token_rotation_slots,
};

static PyMethodDef functions[] = {
    {"rotate", (PyCFunction)(void (*)(void))rotate, METH_FASTCALL, NULL},
    {"max_abs", (PyCFunction)(void (*)(void))max_abs, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "rope_core._rotary", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC PyInit__rotary(void) {
    if (!HAS_TARGET()) {
        PyErr_SetString(PyExc_ImportError, "the processor is older than x86-64-v3");
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    PyObject *type = PyType_FromSpec(&token_rotation_spec);
    if (!type || PyModule_AddObjectRef(module, "TokenRotation", type) ||
        PyModule_AddIntConstant(module, "MAX_WIDTH", MAX_WIDTH)) {
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    Py_DECREF(type);
    return module;
}
