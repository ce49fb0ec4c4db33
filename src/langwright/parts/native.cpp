// Products of rows with bfloat16, int8 and 4-bit weights. Built by native.py for the machine that it runs on.
//
// With few rows they go at the speed of memory. Every number is a sum in an order of its own, which depends neither on
// the other rows of a call nor on the number of threads.
//
// Packed weights lie in tiles of 64 outputs, so that a vector holds two inputs of 16 outputs and no sum crosses lanes:
// int8 as sign and magnitude [tile][inputs / 2][64][2], 4 bits [tile][inputs / 4][64][2], the low half of a byte for
// inputs k and k + 1, the high half for k + 2 and k + 3. Groups of integers have bfloat16 scales and zeros
// [tile][groups][2][64], those of other levels float32 scales [tile][groups][64].

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__AVX512VL__) && !defined(LOOPS)
#include <immintrin.h>
#define VECTORS 1
#else
#define VECTORS 0  // loops that the compiler makes vectors of
#endif

using bf16 = uint16_t;
constexpr long TILE = 64;
constexpr long SMALL = 1 << 15;  // a product of so many numbers is one thread's
constexpr long STREAM = 1 << 13;  // so many numbers of rows leave room in the first cache

static inline float widen(bf16 value) {
    uint32_t bits = uint32_t(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

static inline bf16 narrow(float value) {  // to the nearest, to even in the middle
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return bf16(bits >> 16 | 0x40);
    return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if VECTORS
static inline __m512 wide(const float* from) { return _mm512_loadu_ps(from); }
static inline __m512 wide(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}
#else
static inline float wide(float value) { return value; }
static inline float wide(bf16 value) { return widen(value); }
#endif

// ---- sixteen numbers at once, on any machine

typedef float v16 __attribute__((vector_size(64)));  // of any machine
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef bf16 h16 __attribute__((vector_size(32)));

static inline v16 sixteen(const float* from) {
    v16 found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

static inline v16 sixteen(const bf16* from) {
    h16 half;
    std::memcpy(&half, from, sizeof half);
    return (v16)(__builtin_convertvector(half, u16v) << 16);
}

typedef int8_t b16 __attribute__((vector_size(16)));

static inline v16 sixteen(const int8_t* from) {
#if VECTORS
    return (v16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
#else
    b16 codes;
    std::memcpy(&codes, from, sizeof codes);
    return __builtin_convertvector(codes, v16);
#endif
}

static inline float single(int8_t value) { return value; }
static inline float single(float value) { return value; }
static inline float single(bf16 value) { return widen(value); }
static inline void put(float* to, float value) { *to = value; }
static inline void put(bf16* to, float value) { *to = narrow(value); }

static inline float across(v16 sum) {
#if VECTORS
    return _mm512_reduce_add_ps((__m512)sum);
#else
    for (int half = 8; half; half /= 2) for (int lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
    return sum[0];
#endif
}

static inline v16 add_product(v16 sum, v16 a, v16 b) {
#if VECTORS
    return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
    return sum + a * b;
#endif
}

template <class A, class B> static float inner(const A* a, const B* b, long width) {
    v16 sum = {};
    long i = 0;
#if VECTORS
    if constexpr (sizeof(A) == 2 && sizeof(B) == 2)
        for (; i + 32 <= width; i += 32) {
            const __m512bh left = (__m512bh)_mm512_loadu_si512(a + i), right = (__m512bh)_mm512_loadu_si512(b + i);
            sum = (v16)_mm512_dpbf16_ps((__m512)sum, left, right);
        }
#endif
    for (; i + 16 <= width; i += 16) sum = add_product(sum, sixteen(a + i), sixteen(b + i));
    float total = across(sum);
    for (; i < width; i++) total += single(a[i]) * single(b[i]);
    return total;
}

// ---- packed weights

enum Scaling { BY_ROW, SCALE_AND_ZERO, SCALE };

struct Int8 {
    static constexpr Scaling scaling = BY_ROW;
    static constexpr long span = 2;  // inputs of a step, whose codes take 128 bytes
#if VECTORS
    struct Bytes {  // of 0 to 127 in bfloat16
        alignas(64) uint8_t high[128], low[128];
        Bytes() {
            for (int i = 0; i < 128; i++) high[i] = narrow(float(i)) >> 8, low[i] = narrow(float(i)) & 255;
        }
    };
    __m512i high0, high1, low0, low1, sign;
    explicit Int8(const bf16*) {
        static const Bytes bytes;
        high0 = _mm512_load_si512(bytes.high), high1 = _mm512_load_si512(bytes.high + 64);
        low0 = _mm512_load_si512(bytes.low), low1 = _mm512_load_si512(bytes.low + 64), sign = _mm512_set1_epi8(-128);
    }
    template <int M> void step(const uint8_t* codes, const bf16* x, long inputs, __m512 (&sum)[M][4]) const {
        for (int half = 0; half < 2; half++) {
            __m512i code = _mm512_loadu_si512(codes + 64 * half);
            __m512i high = _mm512_permutex2var_epi8(high0, code, high1);  // looks at 7 bits
            __m512i low = _mm512_permutex2var_epi8(low0, code, low1);
            high = _mm512_ternarylogic_epi64(high, code, sign, 0xf8);  // high | (code & sign)
            __m512bh first = (__m512bh)_mm512_unpacklo_epi8(low, high), second = (__m512bh)_mm512_unpackhi_epi8(low, high);
            for (int m = 0; m < M; m++) {
                __m512bh pair = (__m512bh)_mm512_set1_epi32(*(const int32_t*)(x + m * inputs));
                sum[m][2 * half] = _mm512_dpbf16_ps(sum[m][2 * half], first, pair);
                sum[m][2 * half + 1] = _mm512_dpbf16_ps(sum[m][2 * half + 1], second, pair);
            }
        }
    }
#else
    explicit Int8(const bf16*) {}
    void read(const uint8_t* codes, float (&weights)[span][TILE]) const {
        for (long n = 0; n < TILE; n++) {
            long at = n & ~31, half = n >> 4 & 1, lane = n >> 2 & 3, place = 2 * at + 16 * lane + 8 * half + 2 * (n & 3);
            for (long k = 0; k < span; k++) {
                float size = float(codes[place + k] & 127);
                weights[k][n] = codes[place + k] & 128 ? -size : size;
            }
        }
    }
#endif
};

template <Scaling S> struct FourBit {  // codes of 16 levels
    static constexpr Scaling scaling = S;
    static constexpr long span = 4;
#if VECTORS
    __m512i levels;
    explicit FourBit(const bf16* table) : levels(_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)table))) {}
    template <int M> void step(const uint8_t* codes, const bf16* x, long inputs, __m512 (&sum)[M][4]) const {
        for (int part = 0; part < 4; part++) {
            __m512i code = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)(codes + 32 * part)));
            __m512bh first = (__m512bh)_mm512_permutexvar_epi16(code, levels);  // looks at 5 bits: all levels come twice
            __m512bh second = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(code, 4), levels);
            for (int m = 0; m < M; m++) {
                const int32_t* pairs = (const int32_t*)(x + m * inputs);
                sum[m][part] = _mm512_dpbf16_ps(sum[m][part], first, (__m512bh)_mm512_set1_epi32(pairs[0]));
                sum[m][part] = _mm512_dpbf16_ps(sum[m][part], second, (__m512bh)_mm512_set1_epi32(pairs[1]));
            }
        }
    }
#else
    const bf16* levels;
    explicit FourBit(const bf16* table) : levels(table) {}
    void read(const uint8_t* codes, float (&weights)[span][TILE]) const {
        for (long n = 0; n < TILE; n++)
            for (long k = 0; k < span; k++) weights[k][n] = widen(levels[codes[2 * n + (k & 1)] >> 4 * (k >> 1) & 15]);
    }
#endif
};

struct Packed {
    const uint8_t *codes, *steps;
    const bf16* table;
    long inputs, outputs, groups;
};

// M rows with one tile. sums: of the inputs of each group.
template <class Kind, int M>
static void multiply(const Packed& w, long tile, const bf16* x, const float* sums, float (*out)[TILE]) {
    const Kind kind(w.table);
    const long group = w.inputs / w.groups;
    const uint8_t* codes = w.codes + tile * (w.inputs / Kind::span) * 128;
    const uint8_t* steps = w.steps + tile * w.groups * 4 * TILE;
    auto finish = [&](long g, auto& sum, auto& total, auto add) {
        if constexpr (Kind::scaling == SCALE_AND_ZERO) add(sum, total, (const bf16*)steps, (const bf16*)steps + TILE, g);
        if constexpr (Kind::scaling == SCALE) add(sum, total, (const float*)steps, (const float*)nullptr, g);
        if constexpr (Kind::scaling == BY_ROW) std::memcpy(&total, &sum, sizeof sum);
    };
#if VECTORS
    __m512 total[M][4];
    for (auto& row : total) for (auto& part : row) part = _mm512_setzero_ps();
    for (long g = 0; g < w.groups; g++, steps += 4 * TILE) {
        __m512 sum[M][4];
        for (auto& row : sum) for (auto& part : row) part = _mm512_setzero_ps();
        for (long k = g * group; k < (g + 1) * group; k += Kind::span, codes += 128) {
            _mm_prefetch((const char*)codes + 2048, _MM_HINT_T0), _mm_prefetch((const char*)codes + 2112, _MM_HINT_T0);
            kind.template step<M>(codes, x + k, w.inputs, sum);
        }
        finish(g, sum, total, [&](auto& sum, auto& total, auto scales, auto zeros, long g) {
            for (int part = 0; part < 4; part++) {
                const __m512 scale = wide(scales + 16 * part);
                for (int m = 0; m < M; m++) total[m][part] = _mm512_fmadd_ps(sum[m][part], scale, total[m][part]);
                if (!zeros) continue;
                const __m512 zero = wide(zeros + 16 * part);
                for (int m = 0; m < M; m++) {
                    const __m512 given = _mm512_set1_ps(sums[m * w.groups + g]);
                    total[m][part] = _mm512_fmadd_ps(zero, given, total[m][part]);
                }
            }
        });
    }
    for (int m = 0; m < M; m++) for (int part = 0; part < 4; part++) _mm512_storeu_ps(out[m] + 16 * part, total[m][part]);
#else
    float total[M][TILE] = {};
    for (long g = 0; g < w.groups; g++, steps += 4 * TILE) {
        float sum[M][TILE] = {}, weights[Kind::span][TILE];
        for (long k = g * group; k < (g + 1) * group; k += Kind::span, codes += 128) {
            kind.read(codes, weights);
            for (int m = 0; m < M; m++)
                for (long s = 0; s < Kind::span; s++) {
                    const float value = widen(x[m * w.inputs + k + s]);
                    for (long n = 0; n < TILE; n++) sum[m][n] += weights[s][n] * value;
                }
        }
        finish(g, sum, total, [&](auto& sum, auto& total, auto scales, auto zeros, long g) {
            for (int m = 0; m < M; m++)
                for (long n = 0; n < TILE; n++) {
                    total[m][n] += sum[m][n] * wide(scales[n]);
                    if (zeros) total[m][n] += wide(zeros[n]) * sums[m * w.groups + g];
                }
        });
    }
    std::memcpy(out, total, sizeof total);
#endif
}

// ---- rows of a call

// Rows as bfloat16. One of float32 is the sum of three: its first, next and last eight bits.
struct Rows {
    std::vector<bf16> parts;
    std::vector<float> sums;
    const bf16* values;
    long pieces, count, groups;

    Rows(const void* x, bool floats, long rows, long inputs, long groups)
        : pieces(floats ? 3 : 1), count(rows * pieces), groups(groups) {
        values = (const bf16*)x;
        if (floats) {
            parts.resize(count * inputs), values = parts.data();
            for (long m = 0; m < rows; m++)
                for (long k = 0; k < inputs; k++) {
                    float left = ((const float*)x)[m * inputs + k];
                    for (long p = 0; p < 3; p++) {
                        bf16 part = narrow(left);
                        parts[(3 * m + p) * inputs + k] = part, left -= widen(part);
                    }
                }
        }
        if (!groups) return;
        sums.resize(count * groups);
        for (long m = 0; m < count; m++)
            for (long g = 0, size = inputs / groups; g < groups; g++) {
                const bf16* from = values + m * inputs + g * size;
                v16 sum = {};
                long k = 0;
                for (; k + 16 <= size; k += 16) sum += sixteen(from + k);
                float total = across(sum);
                for (; k < size; k++) total += widen(from[k]);
                sums[m * groups + g] = total;
            }
    }
};

template <class Kind> static void product(const Packed& w, const Rows& in, const float* absmax, void* y) {
    const bool floats = in.pieces == 3;
    const long tiles = (w.outputs + TILE - 1) / TILE, most = 6;
    const long chunk = 96, chunks = (in.count + chunk - 1) / chunk;
    #pragma omp for collapse(2) schedule(static) nowait
    for (long tile = 0; tile < tiles; tile++)
        for (long part = 0; part < chunks; part++) {
            float out[6][TILE];
            const long stop = std::min(in.count, (part + 1) * chunk), width = std::min(TILE, w.outputs - tile * TILE);
            for (long m = part * chunk; m < stop; m += most) {
                const long now = std::min(most, stop - m);
                const bf16* from = in.values + m * w.inputs;
                const float* sums = in.sums.data() + m * w.groups;
                switch (now) {
                    case 1: multiply<Kind, 1>(w, tile, from, sums, out); break;
                    case 2: multiply<Kind, 2>(w, tile, from, sums, out); break;
                    case 3: multiply<Kind, 3>(w, tile, from, sums, out); break;
                    case 4: multiply<Kind, 4>(w, tile, from, sums, out); break;
                    case 5: multiply<Kind, 5>(w, tile, from, sums, out); break;
                    default: multiply<Kind, 6>(w, tile, from, sums, out);
                }
                for (long i = 0; i < now; i += in.pieces)
                    for (long n = 0; n < width; n++) {
                        const long to = (m + i) / in.pieces * w.outputs + tile * TILE + n;
                        float value = floats ? out[i][n] + out[i + 1][n] + out[i + 2][n] : out[i][n];
                        if (absmax) value *= absmax[tile * TILE + n] * (1 / 127.0f);
                        if (floats) ((float*)y)[to] = value;
                        else ((bf16*)y)[to] = narrow(value);
                    }
            }
        }
}

// ---- bfloat16 as it lies, [outputs][inputs]

// R outputs of M rows.
template <int R, int M>
static void dot(const bf16* w, const bf16* x, long inputs, float (&out)[R][M]) {
#if VECTORS
    __m512 sum[R][M];
    for (auto& row : sum) for (auto& one : row) one = _mm512_setzero_ps();
    auto step = [&](long k, auto load) {
        __m512bh weights[R];
        for (int r = 0; r < R; r++) weights[r] = load(w + r * inputs + k);
        for (int m = 0; m < M; m++) {
            __m512bh row = load(x + m * inputs + k);
            for (int r = 0; r < R; r++) sum[r][m] = _mm512_dpbf16_ps(sum[r][m], weights[r], row);
        }
    };
    const long whole = inputs & ~31L;
    for (long k = 0; k < whole; k += 32) step(k, [](const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); });
    if (const long left = inputs - whole)
        step(whole, [=](const bf16* from) { return (__m512bh)_mm512_maskz_loadu_epi16((1u << left) - 1, from); });
    for (int r = 0; r < R; r++) for (int m = 0; m < M; m++) out[r][m] = _mm512_reduce_add_ps(sum[r][m]);
#else
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++) {
            float sum[16] = {};
            for (long k = 0; k + 16 <= inputs; k += 16)
                for (long i = 0; i < 16; i++) sum[i] += widen(w[r * inputs + k + i]) * widen(x[m * inputs + k + i]);
            for (long k = inputs & ~15L; k < inputs; k++) sum[k & 15] += widen(w[r * inputs + k]) * widen(x[m * inputs + k]);
            out[r][m] = 0;
            for (float one : sum) out[r][m] += one;
        }
#endif
}

// R outputs of all rows, M rows at once.
template <int R, int M>
static void dots(const bf16* w, const bf16* bias, const bf16* x, bf16* y, long rows, long inputs, long outputs) {
    auto store = [&](auto& out, long m, int width) {
        for (int r = 0; r < R; r++)
            for (int i = 0; i < width; i++) y[(m + i) * outputs + r] = narrow(out[r][i] + (bias ? widen(bias[r]) : 0.0f));
    };
    long m = 0;
    for (; m + M <= rows; m += M) {
        float out[R][M];
        dot<R, M>(w, x + m * inputs, inputs, out), store(out, m, M);
    }
    for (; m < rows; m++) {
        float out[R][1];
        dot<R, 1>(w, x + m * inputs, inputs, out), store(out, m, 1);
    }
}

struct Factor {
    const void *weight, *steps, *table, *bias;  // steps: of INT8 the largest weight of each output
    void* y;
    int64_t outputs, groups;
    int32_t form;
};
enum Form { BFLOAT16, INT8, INT4, LEVELS };

static void product_bf16(const Factor& f, const bf16* x, long rows, long inputs) {
    // One stream of weights comes at the speed of memory, and four side by side at half of it (768 inputs). But rows
    // that fill the first cache are better loaded once for four outputs.
    const bf16 *w = (const bf16*)f.weight, *bias = (const bf16*)f.bias;
    const long together = rows * inputs > STREAM ? 4 : 1;
    #pragma omp for schedule(static) nowait
    for (long n = 0; n < f.outputs; n += together) {
        const bf16 *from = w + n * inputs, *shift = bias ? bias + n : nullptr;
        bf16* y = (bf16*)f.y + n;
        if (n + together > f.outputs)
            for (long i = 0; n + i < f.outputs; i++)
                dots<1, 2>(from + i * inputs, bias ? shift + i : nullptr, x, y + i, rows, inputs, f.outputs);
        else if (together == 4) dots<4, 4>(from, shift, x, y, rows, inputs, f.outputs);
        else dots<1, 2>(from, shift, x, y, rows, inputs, f.outputs);
    }
}

// ---- positions

template <class T>
static void turn(const T* x, const T* cos, const T* sin, T* y, const int64_t* by, const int64_t* shape, long turned,
                 long table_by, bool interleaved) {
    const long batch = shape[0], heads = shape[1], time = shape[2], width = shape[3], half = turned / 2;
    for (long b = 0; b < batch; b++)
        for (long t = 0; t < time; t++)
            for (long h = 0; h < heads; h++, y += width) {
                const T* from = x + b * by[0] + h * by[1] + t * by[2];
                const T *c = cos + b * table_by + t * turned, *s = sin + b * table_by + t * turned;
                auto put_turned = [&](long i, long partner) {
                    T first;
                    put(&first, single(from[i]) * single(c[i]));
                    put(y + i, std::fma(single(from[partner]), single(s[i]), single(first)));
                };
                if (interleaved) for (long i = 0; i < turned; i++) put_turned(i, i ^ 1);
                else {
                    for (long i = 0; i < half; i++) put_turned(i, i + half);
                    for (long i = half; i < turned; i++) put_turned(i, i - half);
                }
                for (long i = turned; i < width; i++) y[i] = from[i];
            }
}

// ---- attention over blocks of keys and values

static inline float exponential(float x) {  // of 0 and below, to the last bit or two; loops of it become vectors
    const float magic = 12582912.0f, clamped = x < -87.0f ? -87.0f : x;
    const float whole = clamped * 1.44269504f + magic;  // its low bits are the nearest power of two
    const float n = whole - magic, r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.0f / 720;
    for (float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
    uint32_t bits;
    std::memcpy(&bits, &whole, 4);
    bits = (bits + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : p * power;
}

struct Attend {
    const void *q, *k, *v;  // [rows][time][heads or kv_heads][width]
    void *out, *keys, *values;  // like q; of the pool [blocks][kv_heads][size][width]
    bf16 *key_steps, *value_steps;  // of a pool in 8 bits [blocks][kv_heads][size]; else null
    const int64_t *tables, *starts, *counts;  // [rows][longest], [rows], [rows]
    const uint8_t* allowed;  // by row, head, query and key, with strides of the first three; may be null
    const float* added;
    int64_t allowed_by[3], added_by[3];
    int64_t rows, heads, kv_heads, time, width, size, longest;
    float scale, softcap;  // softcap: 0 for none
    int32_t floats, threads;
};

// Have numbers brought that are wanted soon, and that lie where the processor does not look ahead: in the next block.
template <class T> static inline void ask_for(const T* numbers, long count) {
    for (long i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(numbers + i);
}

// Where the keys or values of one head of a text lie, as numbers of type S.
template <class S> struct Lane {
    S* pool;
    bf16* steps;
    const int64_t* table;
    long kv_heads, head, size, width;
    long place(long position) const { return (table[position / size] * kv_heads + head) * size + position % size; }
    S* at(long position) const { return pool + place(position) * width; }
    S* next(long position, long total) const { return at(std::min(position + size, total - 1) / size * size); }
    const bf16* step(long position) const { return steps ? steps + place(position) : nullptr; }
    template <class T> void keep(long position, const T* from) const {
        S* to = at(position);
        if constexpr (sizeof(S) == sizeof(T)) std::memcpy(to, from, width * sizeof(T));
        else {
            float largest = 0, none = 0;  // none is not a number where one of them is not finite
            for (long i = 0; i < width; i++) {
                const float value = single(from[i]);
                largest = std::max(largest, std::fabs(value)), none += value * 0;
            }
            const bf16 narrowed = narrow(largest / 127 + none);
            const float step = widen(narrowed);
            steps[place(position)] = narrowed;
            for (long i = 0; i < width; i++)
                to[i] = step > 0 ? S(std::min(127.0f, std::max(-127.0f, std::nearbyint(single(from[i]) / step)))) : 0;
        }
    }
};

template <class T, class S, int C>  // 16 C numbers of the sum of values
static void mix(const Lane<S>& values, const float* weights, long total, long first, T* out) {
    v16 sum[C] = {};
    for (long j = 0; j < total;) {
        const S* value = values.at(j) + first;
        const long next = values.next(j, total) - values.at(j);
        for (const long stop = std::min(total, j + values.size); j < stop; j++, value += values.width) {
            ask_for(value + next, 16 * C);
            const v16 weight = v16{} + weights[j];
            for (int c = 0; c < C; c++) sum[c] = add_product(sum[c], sixteen(value + 16 * c), weight);
        }
    }
    for (int c = 0; c < C; c++)
        for (int lane = 0; lane < 16; lane++) put(out + first + 16 * c + lane, sum[c][lane]);
}

// Q: what queries are multiplied as.
template <class T, class S, class Q> static void attend(const Attend& a) {
    #pragma omp parallel for schedule(static) num_threads(a.threads)
    for (long task = 0; task < a.kv_heads * a.rows; task++) {  // rows of one head in turn: they may share keys
        const long head = task / a.rows, row = task % a.rows, group = a.heads / a.kv_heads, count = a.counts[row];
        const long total = a.starts[row] + count;
        const int64_t* table = a.tables + row * a.longest;
        const Lane<S> keys = {(S*)a.keys, a.key_steps, table, a.kv_heads, head, a.size, a.width};
        const Lane<S> values = {(S*)a.values, a.value_steps, table, a.kv_heads, head, a.size, a.width};
        for (long t = 0; t < count; t++) {
            const long from = ((row * a.time + t) * a.kv_heads + head) * a.width;
            keys.keep(a.starts[row] + t, (const T*)a.k + from);
            values.keep(a.starts[row] + t, (const T*)a.v + from);
        }
        std::vector<float> weights(total);
        std::vector<Q> query(a.width);
        for (long h = head * group; h < (head + 1) * group; h++)
            for (long t = 0; t < a.time; t++) {
                const long at = ((row * a.time + t) * a.heads + h) * a.width;
                T* out = (T*)a.out + at;
                for (long i = 0; i < a.width; i++) {
                    if constexpr (sizeof(Q) == sizeof(T)) query[i] = ((const T*)a.q)[at + i];
                    else query[i] = single(((const T*)a.q)[at + i]);
                }
                const uint8_t* allowed =
                    a.allowed ? a.allowed + row * a.allowed_by[0] + h * a.allowed_by[1] + t * a.allowed_by[2] : nullptr;
                const float* added =
                    a.added ? a.added + row * a.added_by[0] + h * a.added_by[1] + t * a.added_by[2] : nullptr;
                float largest = -INFINITY;
                for (long j = 0; j < total;) {
                    const S* key = keys.at(j);
                    const bf16* step = keys.step(j);
                    const long next = keys.next(j, total) - key, first = j;
                    for (const long stop = std::min(total, j + a.size); j < stop; j++, key += a.width) {
                        float score = -INFINITY;
                        ask_for(key + next, a.width);
                        if (!allowed || allowed[j]) {
                            score = inner(query.data(), key, a.width) * (step ? a.scale * widen(step[j - first]) : a.scale);
                            if (a.softcap > 0) score = a.softcap * std::tanh(score / a.softcap);
                            if (added) score += added[j];
                        }
                        weights[j] = score;
                        largest = score > largest ? score : largest;
                    }
                }
                if (largest == -INFINITY) largest = 0;  // nothing is seen: all weights are 0
                for (long j = 0; j < total; j++) weights[j] = exponential(weights[j] - largest);
                float sum = 0;
                for (long j = 0; j < total; j++) sum += weights[j];
                const float share = sum > 0 ? 1 / sum : sum;  // what is not a number stays none
                for (long j = 0; j < total; j++) weights[j] *= share;
                for (long j = 0; values.steps && j < total;) {
                    const bf16* step = values.step(j);
                    for (const long stop = std::min(total, j + a.size); j < stop; j++) weights[j] *= widen(*step++);
                }
                long i = 0;
                for (; i + 64 <= a.width; i += 64) mix<T, S, 4>(values, weights.data(), total, i, out);
                for (; i + 16 <= a.width; i += 16) mix<T, S, 1>(values, weights.data(), total, i, out);
                for (; i < a.width; i++) {
                    float one = 0;
                    for (long j = 0; j < total; j++) one += weights[j] * single(values.at(j)[i]);
                    put(out + i, one);
                }
            }
    }
}

// ---- norms

struct NormOf {
    const void *weight, *bias;  // null for none
    long dim;
    float eps;
    bool rms, plus_one;
};

template <class T> static void normalise(const NormOf& n, const T* x, T* y) {
    const T *weight = (const T*)n.weight, *bias = (const T*)n.bias;
    std::vector<float> row(n.dim), ones(n.rms ? 0 : n.dim, 1.0f);
    for (long i = 0; i < n.dim; i++) row[i] = single(x[i]);
    if (!n.rms) {
        const float mean = inner(ones.data(), row.data(), n.dim) / n.dim;
        for (long i = 0; i < n.dim; i++) row[i] -= mean;
    }
    const float scale = 1 / std::sqrt(inner(row.data(), row.data(), n.dim) / n.dim + n.eps);
    for (long i = 0; i < n.dim; i++) {
        float value = row[i] * scale;
        if (n.rms && !n.plus_one) put(y + i, value), value = single(y[i]);  // rounded before the weight, as in training
        if (weight) value *= single(weight[i]) + (n.plus_one ? 1.0f : 0.0f);
        put(y + i, bias ? value + single(bias[i]) : value);
    }
}

// ---- what Python calls. x and y are float32 where `floats`, else bfloat16.

extern "C" {

int vectors() { return VECTORS; }

// The sum of numbers, at the speed of memory.
int64_t read_through(const int64_t* numbers, long count, int threads) {
    int64_t sum = 0;
    #pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : sum)
    for (long i = 0; i < count; i++) sum += numbers[i];
    return sum;
}

// Products of the same rows with several weights.
void products(const Factor* factors, long count, const void* x, int floats, long rows, long inputs, int threads) {
    std::vector<Rows> read;  // those that the packed ones take
    read.reserve(count);
    long numbers = 0;
    auto rows_of = [&](const Factor& f) -> const Rows& {
        const long groups = f.form == INT4 ? f.groups : 0;
        for (const Rows& one : read) if (one.groups == groups) return one;
        return read.emplace_back(x, floats != 0, rows, inputs, groups);
    };
    for (long i = 0; i < count; i++) {
        numbers += inputs * factors[i].outputs;
        if (factors[i].form != BFLOAT16) rows_of(factors[i]);
    }
    #pragma omp parallel num_threads(threads) if (numbers > SMALL)
    for (long i = 0; i < count; i++) {
        const Factor& f = factors[i];
        const Packed w = {(const uint8_t*)f.weight, (const uint8_t*)f.steps, (const bf16*)f.table, inputs, f.outputs, f.groups};
        switch (f.form) {
            case BFLOAT16: product_bf16(f, (const bf16*)x, rows, inputs); break;
            case INT8: product<Int8>(w, rows_of(f), (const float*)f.steps, f.y); break;
            case INT4: product<FourBit<SCALE_AND_ZERO>>(w, rows_of(f), nullptr, f.y); break;
            case LEVELS: product<FourBit<SCALE>>(w, rows_of(f), nullptr, f.y);
        }
    }
}

// x, [batch][heads][time][width] with these strides but the last, turned by tables [batch or 1][time][turned], into
// y [batch][time][heads][width]. The first product is rounded, as PyTorch does it.
void rotate(const void* x, const void* cos, const void* sin, void* y, const int64_t* by, const int64_t* shape, long turned,
            long table_by, int interleaved, int floats) {
    if (floats) turn((const float*)x, (const float*)cos, (const float*)sin, (float*)y, by, shape, turned, table_by, interleaved);
    else turn((const bf16*)x, (const bf16*)cos, (const bf16*)sin, (bf16*)y, by, shape, turned, table_by, interleaved);
}

void norm(const void* weight, const void* bias, const void* x, void* y, float eps, int rms, int plus_one, int floats,
          long rows, long dim, int threads) {
    const NormOf n = {weight, bias, dim, eps, rms != 0, plus_one != 0};
    #pragma omp parallel for schedule(static) num_threads(threads) if (rows * dim > SMALL)
    for (long m = 0; m < rows; m++)
        if (floats) normalise(n, (const float*)x + m * dim, (float*)y + m * dim);
        else normalise(n, (const bf16*)x + m * dim, (bf16*)y + m * dim);
}

void attend_blocks(const Attend* a) {
    if (a->key_steps && a->floats) attend<float, int8_t, float>(*a);
    else if (a->key_steps) attend<bf16, int8_t, float>(*a);
    else if (a->floats) attend<float, float, float>(*a);
    else attend<bf16, bf16, bf16>(*a);
}

}  // extern "C"
