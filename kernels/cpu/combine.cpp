// Combine: out[t] = sum over k of gates[t, k] * y[slot[t, k]], in slot order, summed in float32.
//
// Grid    one parallel region over tokens
// Shapes  y (rows + 1, D), slot (T, K), gates (T, K) float32 -> out (T, D), row-major
// Moves   y once, out once. A slot of `rows` or more is unused: neither its row nor its gate is read.
#include "lanes.h"

namespace {

using namespace lanes;

template <class T>
void combine(const typename T::Item* y, const int64_t* slot_TK, const float* gates_TK, typename T::Item* out,
             int64_t tokens, int64_t k, int64_t D, int64_t rows, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t d = 0; d < D; d += LANES) {
            const __mmask16 valid = first(D - d);
            __m512 sum = _mm512_setzero_ps();
            for (int64_t s = t * k; s < (t + 1) * k; s++)
                if (slot_TK[s] >= 0 && slot_TK[s] < rows)
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(gates_TK[s]), T::load(y + slot_TK[s] * D + d, valid), sum);
            T::store(out + t * D + d, sum, valid);
        }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                             \
    extern "C" void combine_##NAME(const T::Item* y, const int64_t* slot_TK, const float* gates_TK, T::Item* out,   \
                                   int64_t tokens, int64_t k, int64_t D, int64_t rows, int threads) {               \
        combine<T>(y, slot_TK, gates_TK, out, tokens, k, D, rows, threads);                                         \
    }
EXPORT(float32, Float32)
EXPORT(bfloat16, BFloat16)
