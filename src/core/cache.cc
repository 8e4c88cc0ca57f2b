#include "core/cache.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace moe {
namespace {

struct Caches {
    int64_t second_level = 0;
    int64_t last_level = 0;
};

// A number, which a K may follow.
int64_t read_size(int index, const char* file) {
    char path[80];
    std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, file);
    std::FILE* stream = std::fopen(path, "re");
    if (stream == nullptr) return 0;
    long long number = 0;
    char unit = '\0';
    const int fields = std::fscanf(stream, "%lld%c", &number, &unit);
    std::fclose(stream);
    return fields < 1 ? 0 : unit == 'K' ? number * 1024 : number;
}

Caches ask_system() {
    Caches caches;
    int64_t highest = 2;
    for (int index = 0; index < 8; ++index) {
        const int64_t level = read_size(index, "level");
        const int64_t size = read_size(index, "size");
        if (level == 2) caches.second_level = std::max(caches.second_level, size);
        if (level < highest) continue;
        highest = level;
        caches.last_level = size;
    }
    return caches;
}

// Larger ones are shared by many cores, and by the other guests of a host: no program has them for itself.
constexpr int64_t most_of_last_level = int64_t{64} << 20;

Caches ask() {
    Caches caches;
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
    caches.second_level = sysconf(_SC_LEVEL2_CACHE_SIZE);
    caches.last_level = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
    if (caches.second_level <= 0 || caches.last_level <= 0) caches = ask_system();
    if (caches.second_level <= 0) caches.second_level = int64_t{1} << 20;
    if (caches.last_level <= 0) caches.last_level = int64_t{32} << 20;
    caches.last_level = std::min(caches.last_level, most_of_last_level);
    return caches;
}

const Caches& caches() {
    static const Caches known = ask();
    return known;
}

}  // namespace

int64_t second_level_cache_bytes() {
    return caches().second_level;
}

int64_t last_level_cache_bytes() {
    return caches().last_level;
}

bool outgrows_caches(int64_t bytes) {
    return bytes > last_level_cache_bytes() / 8;
}

}  // namespace moe
