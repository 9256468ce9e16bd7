// Experts: rows of y = (silu(x W_gate) * (x W_value)) W_down, in expert order.
//
// Grid       one task per expert and at most 96 of its rows, in one parallel region; hidden activations stay in the core
// Shapes     x (T, D), slot (T, K), load (E), w_up (E, D, 2H), w_down (E, H, D) -> y (rows + 1, D), row-major
// Moves      x K times, y once, the weights once per task; nothing of width H reaches the memory
// In a task  rows are gathered in chunks of 16 units, so that every address of the inner loop is one base + a constant;
//            two vectors of columns at a time are packed to be contiguous, and tiles of up to 12 rows multiply them in
//            24 registers, while the columns after them are fetched to the second-level cache
// Rows that no slot names become zero. Slots and loads that do not fit each other cannot lead outside the buffers.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

using namespace lanes;

constexpr int TILE = 12;
constexpr int BLOCK = 8 * TILE;

// x * sigmoid(x) * value.
inline __m512 swiglu(__m512 x, __m512 value) {
    const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(_mm512_mul_ps(x, value), _mm512_add_ps(_mm512_set1_ps(1.f), e));
}

// Where the two column vectors of the next panel stand in memory.
struct Next {
    const char *first, *second;
    int64_t stride;
};

template <class T, int ROWS, class Emit>
inline void tile(const int32_t* rows, int64_t chunk_stride, const __m512i* panel, int64_t chunks, Next next, Emit emit) {
    __m512 sum[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t c = 0; c < chunks; c++, rows += chunk_stride) {
#pragma GCC unroll 4
        for (int u = 0; u < LANES; u++, panel += 2) {
            for (int p = 0; p < T::PACK; p++, next.first += next.stride, next.second += next.stride) {
                _mm_prefetch(next.first, _MM_HINT_T1);
                _mm_prefetch(next.second, _MM_HINT_T1);
            }
            const __m512i first = panel[0], second = panel[1];
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                sum[r][0] = T::dot(sum[r][0], first, rows[r * LANES + u]);
                sum[r][1] = T::dot(sum[r][1], second, rows[r * LANES + u]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) emit(r, sum[r][0], sum[r][1]);
}

template <class T>
struct Task {
    using Item = typename T::Item;
    static constexpr int CHUNK = LANES * T::PACK;  // items

    const Item *x, *w_up, *w_down;  // of its expert
    const int32_t* token;           // of its rows; -1 = none
    Item* y;
    int64_t n, D, H;

    void run() const {
        const int64_t chunks_d = (D + CHUNK - 1) / CHUNK, chunks_h = (H + CHUNK - 1) / CHUNK;
        Item* in = scratch(n * (chunks_d + chunks_h) * 64 + std::max(chunks_d, chunks_h) * LANES * 128);
        Item* hidden = in + n * chunks_d * CHUNK;
        __m512i* panel = (__m512i*)(hidden + n * chunks_h * CHUNK);
        gather(in, chunks_d);
        if (H % CHUNK) std::memset(hidden + (chunks_h - 1) * n * CHUNK, 0, n * 64);
        for (int64_t h = 0; h < H; h += LANES) {
            const Item *gate = w_up + h, *value = w_up + H + h;
            const bool more = h + LANES < H;
            Item* to = hidden + (h / CHUNK) * n * CHUNK + h % CHUNK;
            pack(panel, gate, value, 2 * H, D, chunks_d, first(H - h), first(H - h));
            product(in, panel, chunks_d, more ? next(gate + LANES, value + LANES, 2 * H) : next(w_down, w_down + LANES, D),
                    [=](int64_t row, __m512 g, __m512 v) { T::store(to + row * CHUNK, swiglu(g, v), 0xFFFF); });
        }
        for (int64_t d = 0; d < D; d += 2 * LANES) {
            const __mmask16 left = first(D - d), right = first(D - d - LANES);
            const Item* columns = w_down + d;
            Item* to = y + d;
            pack(panel, columns, columns + LANES, D, H, chunks_h, left, right);
            product(hidden, panel, chunks_h, next(columns + 2 * LANES, columns + 3 * LANES, D),
                    [=, this](int64_t row, __m512 a, __m512 b) {
                        T::store(to + row * D, a, left);
                        T::store(to + row * D + LANES, b, right);
                    });
        }
    }

   private:
    static Next next(const Item* a, const Item* b, int64_t stride) {
        return {(const char*)a, (const char*)b, stride * (int64_t)sizeof(Item)};
    }

    // Kept per thread: no page faults after the first call.
    static Item* scratch(size_t bytes) {
        struct Memory {
            void* at = nullptr;
            size_t size = 0;
            ~Memory() { std::free(at); }
        };
        thread_local Memory memory;
        if (bytes > memory.size) {
            std::free(memory.at);
            memory.at = std::aligned_alloc(64, bytes);
            memory.size = bytes;
        }
        return (Item*)memory.at;
    }

    void gather(Item* in, int64_t chunks) const {
        for (int64_t r = 0; r < n; r++)
            for (int64_t c = 0; c < chunks; c++) {
                Item* to = in + (c * n + r) * CHUNK;
                const int64_t items = token[r] < 0 ? 0 : std::min<int64_t>(CHUNK, D - c * CHUNK);
                if (items < CHUNK) std::memset(to, 0, 64);
                if (items) std::memcpy(to, x + token[r] * D + c * CHUNK, items * sizeof(Item));
            }
    }

    static void pack(__m512i* panel, const Item* a, const Item* b, int64_t stride, int64_t depth, int64_t chunks,
                     __mmask16 valid_a, __mmask16 valid_b) {
        const int64_t units = (depth + T::PACK - 1) / T::PACK;
        for (int64_t k = 0; k < units; k++) {
            panel[2 * k] = T::column_units(a, stride, k, depth, valid_a);
            panel[2 * k + 1] = T::column_units(b, stride, k, depth, valid_b);
        }
        std::memset(panel + 2 * units, 0, (chunks * LANES - units) * 128);
    }

    template <class Emit>
    void product(const Item* rows, const __m512i* panel, int64_t chunks, Next next, Emit emit) const {
        const int64_t tiles = (n + TILE - 1) / TILE;
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t from = n * i / tiles, until = n * (i + 1) / tiles;
            const int32_t* units = (const int32_t*)(rows + from * CHUNK);
            auto emit_row = [=](int r, __m512 a, __m512 b) { emit(from + r, a, b); };
            switch (until - from) {
#define TILE_OF(ROWS) \
    case ROWS:        \
        tile<T, ROWS>(units, n * LANES, panel, chunks, next, emit_row); \
        break;
                TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6)
                TILE_OF(7) TILE_OF(8) TILE_OF(9) TILE_OF(10) TILE_OF(11) TILE_OF(12)
#undef TILE_OF
            }
            next = {(const char*)panel, (const char*)panel, 0};  // fetched once
        }
    }
};

template <class T>
void experts(const typename T::Item* x, const int64_t* slot_TK, const int64_t* load_E, const typename T::Item* w_up,
             const typename T::Item* w_down, typename T::Item* y, int64_t tokens, int64_t k, int64_t count, int64_t D,
             int64_t H, int64_t capacity, int threads) {
    const int64_t slots = tokens * k, total = capacity < 0 ? slots : count * capacity;
    std::vector<int32_t> token_S(total, -1);
    for (int64_t s = 0; s < slots; s++)
        if (slot_TK[s] >= 0 && slot_TK[s] < total) token_S[slot_TK[s]] = (int32_t)(s / k);
    std::vector<Task<T>> tasks;
    int64_t start = 0;
    for (int64_t e = 0; e < count; e++) {
        const int64_t room = capacity < 0 ? total - start : capacity;
        const int64_t rows = std::clamp<int64_t>(load_E[e], 0, room), blocks = (rows + BLOCK - 1) / BLOCK;
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = start + rows * b / blocks, until = start + rows * (b + 1) / blocks;
            tasks.push_back({x, w_up + e * D * 2 * H, w_down + e * H * D, token_S.data() + from, y + from * D,
                             until - from, D, H});
        }
        if (capacity >= 0) std::memset(y + (start + rows) * D, 0, (capacity - rows) * D * sizeof(*y));
        start += capacity < 0 ? rows : capacity;
    }
    std::memset(y + start * D, 0, (total + 1 - start) * D * sizeof(*y));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < tasks.size(); i++) tasks[i].run();
}

}  // namespace

#define EXPORT(NAME, T)                                                                                               \
    extern "C" void experts_##NAME(const T::Item* x, const int64_t* slot_TK, const int64_t* load_E,                   \
                                   const T::Item* w_up, const T::Item* w_down, T::Item* y, int64_t tokens, int64_t k, \
                                   int64_t count, int64_t D, int64_t H, int64_t capacity, int threads) {              \
        experts<T>(x, slot_TK, load_E, w_up, w_down, y, tokens, k, count, D, H, capacity, threads);                   \
    }
EXPORT(float32, Float32)
EXPORT(bfloat16, BFloat16)
