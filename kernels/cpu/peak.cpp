// Peak: products of registers with registers, nothing else. The ceiling that a roofline needs; no layer calls it.
//
// Grid  one block of 24 independent sums per thread
#include "lanes.h"

namespace {

using namespace lanes;

constexpr int SUMS = 24;

template <class T>
float peak(int64_t repeats, int threads) {
    float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(+ : total)
    for (int thread = 0; thread < threads; thread++) {
        __m512 sum[SUMS];
        __m512i w = _mm512_set1_epi32(thread);
        for (__m512& s : sum) s = _mm512_setzero_ps();
        for (int64_t i = 0; i < repeats; i++) {
            asm volatile("" : "+v"(w));  // or the loop would be worked out when compiling
#pragma GCC unroll 24
            for (int s = 0; s < SUMS; s++) sum[s] = T::dot(sum[s], w, 1);
        }
        for (const __m512& s : sum) total += _mm512_reduce_add_ps(s);
    }
    return total;
}

}  // namespace

extern "C" float peak_float32(int64_t repeats, int threads) { return peak<Float32>(repeats, threads); }
extern "C" float peak_bfloat16(int64_t repeats, int threads) { return peak<BFloat16>(repeats, threads); }
