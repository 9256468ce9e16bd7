// What a kernel needs to know of a float type: its items in vectors of 16 units of 32 bits. A unit is one float32, or
// two bfloat16 that are neighbours along the inner dimension of a product.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

namespace lanes {

constexpr int LANES = 16;

inline __mmask16 first(int64_t n) { return n >= LANES ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

// exp to within 2 ulp: 2^n * e^r with |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7. Minimum and maximum
// return their second operand where one is not a number, so that NaN stays NaN.
inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-88.f), _mm512_min_ps(_mm512_set1_ps(88.f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.f / 5040);
    for (const float c : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

struct Float32 {
    using Item = float;
    static constexpr int PACK = 1;  // items in a unit

    // sum + w * x, one unit x against 16 columns of w.
    static __m512 dot(__m512 sum, __m512i w, int32_t x) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(_mm512_set1_epi32(x)), sum);
    }
    // Unit `k` of 16 neighbouring columns of a row-major matrix with `depth` rows.
    static __m512i column_units(const Item* w, int64_t stride, int64_t k, int64_t, __mmask16 valid) {
        return _mm512_castps_si512(_mm512_maskz_loadu_ps(valid, w + k * stride));
    }
    static void store(Item* to, __m512 v, __mmask16 valid) { _mm512_mask_storeu_ps(to, valid, v); }
    static __m512 load(const Item* from, __mmask16 valid) { return _mm512_maskz_loadu_ps(valid, from); }
};

struct BFloat16 {
    using Item = uint16_t;
    static constexpr int PACK = 2;

    static __m512 dot(__m512 sum, __m512i w, int32_t x) {
        return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(x));
    }
    static __m512i column_units(const Item* w, int64_t stride, int64_t k, int64_t depth, __mmask16 valid) {
        const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, w + 2 * k * stride));
        if (2 * k + 1 >= depth) return low;
        const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, w + (2 * k + 1) * stride));
        return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    }
    static void store(Item* to, __m512 v, __mmask16 valid) {
        _mm256_mask_storeu_epi16(to, valid, (__m256i)_mm512_cvtneps_pbh(v));
    }
    static __m512 load(const Item* from, __mmask16 valid) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, from)), 16));
    }
};

}  // namespace lanes
