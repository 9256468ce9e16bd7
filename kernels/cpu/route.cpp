// Route: softmax of the gate's logits, the k best experts by score + bias - price, gates, ranks and loads.
//
// Grid    one thread, token after token: ranks count in that order
// Shapes  logits (T, E) float32, bias and prices (E) or none -> scores (T, E), ids, gates, rank (T, K), load (E)
// Moves   logits and scores once. Equal keys go to the lower expert, what is not a number comes last. A slot that is
//         dropped, or finds only experts at a price of infinity, has id and rank -1 and gate 0.
#include <cmath>
#include <vector>

#include "lanes.h"

using namespace lanes;

namespace {

// The expert with the largest key, which is then taken out: its key becomes -infinity. The first one left if no key is
// a number, -1 if none is left.
int64_t take_best(float* key, int64_t count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t e = 0; e < count; e += LANES) most = _mm512_max_ps(_mm512_loadu_ps(key + e), most);
    const float best = _mm512_reduce_max_ps(most);
    int64_t found = 0;
    if (best > -INFINITY) {
        __mmask16 equal;
        while (!(equal = _mm512_cmpeq_ps_mask(_mm512_loadu_ps(key + found), _mm512_set1_ps(best)))) found += LANES;
        found += __builtin_ctz(equal);
    } else {
        while (found < count && key[found] == -INFINITY) found++;
    }
    if (found == count) return -1;
    key[found] = -INFINITY;
    return found;
}

}  // namespace

extern "C" void route(const float* logits, const float* bias, const float* prices, float* scores, int64_t* ids,
                      float* gates, int64_t* rank, int64_t* load, int64_t tokens, int64_t count, int64_t k,
                      int64_t capacity) {
    const int64_t padded = (count + LANES - 1) / LANES * LANES;
    std::vector<float> key(padded), shift(padded, 0);
    for (int64_t e = 0; e < count; e++) shift[e] = (bias ? bias[e] : 0) - (prices ? prices[e] : 0), load[e] = 0;
    for (int64_t t = 0; t < tokens; t++, logits += count, scores += count, ids += k, gates += k, rank += k) {
        __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
        for (int64_t e = 0; e < count; e += LANES)
            most = _mm512_mask_max_ps(most, first(count - e), most, _mm512_maskz_loadu_ps(first(count - e), logits + e));
        most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (int64_t e = 0; e < count; e += LANES) {
            const __m512 logit = _mm512_maskz_loadu_ps(first(count - e), logits + e);
            const __m512 power = exponential(_mm512_sub_ps(logit, most));
            _mm512_storeu_ps(key.data() + e, power);
            sum = _mm512_mask_add_ps(sum, first(count - e), sum, power);
        }
        const __m512 whole = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
        for (int64_t e = 0; e < count; e += LANES) {
            const __mmask16 valid = first(count - e);
            const __m512 score = _mm512_div_ps(_mm512_loadu_ps(key.data() + e), whole);
            _mm512_mask_storeu_ps(scores + e, valid, score);
            const __m512 shifted = _mm512_add_ps(score, _mm512_loadu_ps(shift.data() + e));
            _mm512_storeu_ps(key.data() + e, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), valid, shifted));
        }
        float weight = 0;
        for (int64_t j = 0; j < k; j++) {
            const int64_t e = take_best(key.data(), count);
            const bool room = e >= 0 && (capacity < 0 || load[e] < capacity);
            ids[j] = room ? e : -1;
            rank[j] = room ? load[e]++ : -1;
            gates[j] = room ? scores[e] + 1e-30f : 0;  // equal weights where all scores are 0
            weight += gates[j];
        }
        for (int64_t j = 0; j < k; j++) gates[j] /= weight > 1e-30f ? weight : 1e-30f;
    }
}
