// Slots: the row of each slot in expert order, from its expert and its rank there.
//
// Grid    one thread: it moves 24 bytes per slot
// Shapes  ids, rank (N), load (E), int64 -> slot (N), the number of rows where a slot is unused or has no room
#include <cstdint>
#include <vector>

extern "C" void slot_rows(const int64_t* ids, const int64_t* rank, const int64_t* load, int64_t* slot, int64_t slots,
                          int64_t count, int64_t capacity) {
    const int64_t rows = capacity < 0 ? slots : count * capacity;
    std::vector<int64_t> start(count);
    for (int64_t e = 0, sum = 0; e < count; sum += load[e++]) start[e] = capacity < 0 ? sum : e * capacity;
    for (int64_t s = 0; s < slots; s++) {
        const bool used = ids[s] >= 0 && ids[s] < count && (capacity < 0 || rank[s] < capacity);
        slot[s] = used ? start[ids[s]] + rank[s] : rows;
    }
}
