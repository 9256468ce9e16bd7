// Rank: how many slots of the same expert come before, and how many slots each expert has.
//
// Grid    one thread: it counts
// Shapes  ids (N), int64, -1 = not used -> rank (N), -1 where not used; load (E)
#include <algorithm>
#include <cstdint>

extern "C" void rank_slots(const int64_t* ids, int64_t* rank, int64_t* load, int64_t slots, int64_t count) {
    std::fill(load, load + count, 0);
    for (int64_t s = 0; s < slots; s++) rank[s] = ids[s] >= 0 && ids[s] < count ? load[ids[s]]++ : -1;
}
