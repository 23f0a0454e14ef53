/* Chains of small operations of the world model, each one pass over memory; `fused.py` says what they compute.

   Everything is contiguous. A number that tells whether an array is bfloat16 (else float32) is named
   `low...`; sums are float32. Letters: B rows, N columns, G blocks of d = N / G, C classes, S categoricals.

   Threads are those of torch: compiled with -fopenmp but not linked to a runtime, this takes the one that torch has
   loaded, so that there are never two. Work is cut by rows alone: results do not depend on the number of threads. */

#include <stdint.h>
#include <string.h>

/* One library for all processors: the loader picks the widest vectors that this one has. */
#if !defined(__x86_64__) || !defined(__GLIBC__) || !defined(__GNUC__) || defined(__clang__)
#define VECTORS
#elif __GNUC__ >= 12
#define VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else /* knows no levels yet */
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#define INLINE static inline __attribute__((always_inline))
#define ROWS_IN_PARALLEL _Pragma("omp parallel for num_threads(threads) if(threads > 1) schedule(static)")

typedef int64_t size;

const uint32_t source = SOURCE; /* checksum of this file */

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Within two units in the last place from -87 to 88, beyond which it stays what it is there; NaN stays NaN. The
   polynomial is that of Cephes. Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f, p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * from_bits((to_bits(shifted) << 23) + 0x3f800000u);
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE void load(float *to, const void *from, int low, size at, size n) {
    const uint16_t *narrow = (const uint16_t *)from + at;
    if (!low) memcpy(to, (const float *)from + at, n * sizeof(float));
    else
        for (size i = 0; i < n; i++) to[i] = from_bits((uint32_t)narrow[i] << 16);
}

/* To bfloat16 with ties to even, as torch rounds. */
INLINE void store(void *to, const float *from, int low, size at, size n) {
    uint16_t *narrow = (uint16_t *)to + at;
    if (!low) memcpy((float *)to + at, from, n * sizeof(float));
    else
        for (size i = 0; i < n; i++) {
            uint32_t bits = to_bits(from[i]), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            narrow[i] = from[i] == from[i] ? rounded : 0x7fc0;
        }
}

INLINE float mean_product(const float *a, const float *b, size n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size i = 0; i < n; i++) sum += a[i] * b[i];
    return sum / n;
}

VECTORS static void norm_row(const void *x, const void *blocks, const float *bias, const float *scale, void *y,
                             float *kept, size row, size B, size N, size d, int low, int low_y, float eps) {
    float own[N], more[N];
    load(own, x, low, row * N, N);
    if (blocks) {
        for (size at = 0; at < N; at += d) load(more + at, blocks, low, at * B + row * d, d);
        for (size i = 0; i < N; i++) own[i] += more[i] + bias[i];
    }
    if (kept) memcpy(kept + row * N, own, sizeof own);
    float inverse = 1.0f / __builtin_sqrtf(mean_product(own, own, N) + eps);
    for (size i = 0; i < N; i++) {
        float z = own[i] * inverse * scale[i];
        more[i] = z * sigmoid(z);
    }
    store(y, more, low_y, row * N, N);
}

/* y (B, N) of x (B, N), to which may be added blocks (G, B, d) and bias (N); kept (B, N), or nothing, takes the sum. */
void normed(const void *x, const void *blocks, const float *bias, const float *scale, void *y, float *kept, size B,
            size N, size d, int low, int low_y, float eps, int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++)
        norm_row(x, blocks, bias, scale, y, kept, row, B, N, d, low, low_y, eps);
}

VECTORS static void norm_row_back(const void *grad, const void *x, const float *scale, void *of_x, float *of_scale,
                                  size row, size N, int low_grad, int low_x, float eps) {
    float g[N], plain[N];
    load(g, grad, low_grad, row * N, N);
    load(plain, x, low_x, row * N, N);
    float inverse = 1.0f / __builtin_sqrtf(mean_product(plain, plain, N) + eps);
    for (size i = 0; i < N; i++) {
        plain[i] *= inverse;
        float z = plain[i] * scale[i], s = sigmoid(z);
        g[i] *= s * (1.0f + z * (1.0f - s));
        of_scale[i] += g[i] * plain[i];
        g[i] *= scale[i];
    }
    float along = mean_product(g, plain, N);
    for (size i = 0; i < N; i++) g[i] = inverse * (g[i] - plain[i] * along);
    store(of_x, g, low_grad, row * N, N);
}

/* of_x (B, N), as wide as grad, and of_scale (chunks, N), which was filled with zeros: sums over `chunk` rows each. */
void normed_back(const void *grad, const void *x, const float *scale, void *of_x, float *of_scale, size B, size N,
                 size chunk, int low_grad, int low_x, float eps, int threads) {
    ROWS_IN_PARALLEL
    for (size begin = 0; begin < B; begin += chunk)
        for (size row = begin; row < B && row < begin + chunk; row++)
            norm_row_back(grad, x, scale, of_x, of_scale + begin / chunk * N, row, N, low_grad, low_x, eps);
}

VECTORS static void gate_row(const void *gates, const float *bias, const float *deter, float *next, void *copy,
                             size row, size B, size G, size d, int low) {
    float g[3 * d];
    for (size block = 0; block < G; block++) {
        const float *b = bias + block * 3 * d, *before = deter + (row * G + block) * d;
        float *after = next + (row * G + block) * d;
        load(g, gates, low, (block * B + row) * 3 * d, 3 * d);
        for (size i = 0; i < d; i++) {
            float reset = sigmoid(g[i] + b[i]), update = sigmoid(g[2 * d + i] + b[2 * d + i] - 1.0f);
            float candidate = 2.0f * sigmoid(2.0f * reset * (g[d + i] + b[d + i])) - 1.0f; /* tanh */
            after[i] = before[i] + update * (candidate - before[i]);
        }
    }
    if (copy) store(copy, next + row * G * d, 1, row * G * d, G * d);
}

/* next (B, N) of gates (G, B, 3 d), which are reset, proposed and update, bias (3 N) and deter (B, N); copy, or
   nothing, takes next as bfloat16. */
void gated(const void *gates, const float *bias, const float *deter, float *next, void *copy, size B, size G, size d,
           int low, int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++)
        gate_row(gates, bias, deter, next, copy, row, B, G, d, low);
}

VECTORS static void gate_row_back(const float *grad, const void *gates, const float *bias, const float *deter,
                                  void *of_gates, float *of_deter, size row, size B, size G, size d, int low) {
    float g[3 * d];
    for (size block = 0; block < G; block++) {
        const float *b = bias + block * 3 * d, *before = deter + (row * G + block) * d;
        const float *of_after = grad + (row * G + block) * d;
        float *of_before = of_deter + (row * G + block) * d;
        load(g, gates, low, (block * B + row) * 3 * d, 3 * d);
        for (size i = 0; i < d; i++) {
            float reset = sigmoid(g[i] + b[i]), update = sigmoid(g[2 * d + i] + b[2 * d + i] - 1.0f);
            float proposed = g[d + i] + b[d + i], candidate = 2.0f * sigmoid(2.0f * reset * proposed) - 1.0f;
            float of_product = of_after[i] * update * (1.0f - candidate * candidate);
            g[i] = of_product * proposed * reset * (1.0f - reset);
            g[d + i] = of_product * reset;
            g[2 * d + i] = of_after[i] * (candidate - before[i]) * update * (1.0f - update);
            of_before[i] = of_after[i] * (1.0f - update);
        }
        store(of_gates, g, low, (block * B + row) * 3 * d, 3 * d);
    }
}

/* of_gates (G, B, 3 d), as wide as gates, and of_deter (B, N), from grad (B, N), that of next. */
void gated_back(const float *grad, const void *gates, const float *bias, const float *deter, void *of_gates,
                float *of_deter, size B, size G, size d, int low, int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++)
        gate_row_back(grad, gates, bias, deter, of_gates, of_deter, row, B, G, d, low);
}

VECTORS static void draw_row(const void *logits, const float *uniform, void *one_hot, float *probs, size row, size C,
                             size S, int low, float share) {
    float p[C * S], most[S], total[S], before[S];
    load(p, logits, low, row * C * S, C * S);
    memcpy(most, p, sizeof most);
    memset(total, 0, sizeof total);
    memset(before, 0, sizeof before);
    for (size c = 1; c < C; c++)
        for (size s = 0; s < S; s++) most[s] = p[c * S + s] > most[s] ? p[c * S + s] : most[s];
    for (size c = 0; c < C; c++)
        for (size s = 0; s < S; s++) total[s] += p[c * S + s] = exponential(p[c * S + s] - most[s]);
    for (size s = 0; s < S; s++) total[s] = 1.0f / total[s];
    for (size c = 0; c < C; c++)
        for (size s = 0; s < S; s++) p[c * S + s] *= total[s];
    if (probs) memcpy(probs + row * C * S, p, sizeof p);
    for (size c = 0; c < C; c++)
        for (size s = 0; s < S; s++) before[s] = p[c * S + s] = before[s] + (1.0f - share) * p[c * S + s] + share / C;
    for (size s = 0; s < S; s++) most[s] = uniform[row * S + s] * before[s], before[s] = 0.0f;
    for (size c = 0; c < C; c++)
        for (size s = 0; s < S; s++) {
            float below = c == C - 1 || p[c * S + s] > most[s] ? 1.0f : 0.0f;
            p[c * S + s] = below - before[s];
            before[s] = below;
        }
    store(one_hot, p, low, row * C * S, C * S);
}

/* one_hot (B, C, S), as wide as logits (B, C, S), drawn by the inverse CDF of their softmax with a `share` of a
   uniform, at uniform (B, S) in [0, 1); probs (B, C, S), or nothing, takes the softmax. */
void drawn(const void *logits, const float *uniform, void *one_hot, float *probs, size B, size C, size S, int low,
           float share, int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++) draw_row(logits, uniform, one_hot, probs, row, C, S, low, share);
}

/* Pairs of bins are equal and opposite, and so do equal tails of size 5e8 cancel exactly. */
VECTORS static void twohot_row(const float *x, const float *bins, float *mean, float *most, float *total, size N) {
    float p[N], high = x[0], sum = 0, paired = 0;
#pragma omp simd reduction(max : high)
    for (size i = 0; i < N; i++) high = x[i] > high ? x[i] : high;
#pragma omp simd reduction(+ : sum)
    for (size i = 0; i < N; i++) sum += p[i] = exponential(x[i] - high);
#pragma omp simd reduction(+ : paired)
    for (size i = 0; i < N / 2; i++) paired += (p[N - 1 - i] - p[i]) * bins[N - 1 - i];
    *mean = paired / sum, *most = high, *total = sum;
}

/* Of logits (B, N): the mean (B,) of bins (N,), which are symmetric about zero, under their softmax; the largest (B,);
   and the sum of the exponentials of what they are below it (B,). */
void twohot(const float *logits, const float *bins, float *mean, float *most, float *total, size B, size N,
            int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++) twohot_row(logits + row * N, bins, mean + row, most + row, total + row, N);
}

VECTORS static void exponential_row(const float *x, float most, float factor, float *y, size N) {
    for (size i = 0; i < N; i++) y[i] = factor * exponential(x[i] - most);
}

/* y (B, N) is factor (B,) times the exponential of logits (B, N) less most (B,). */
void exponentials(const float *logits, const float *most, const float *factor, float *y, size B, size N, int threads) {
    ROWS_IN_PARALLEL
    for (size row = 0; row < B; row++) exponential_row(logits + row * N, most[row], factor[row], y + row * N, N);
}
