#include "aclnn/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "acl/acl.h"
#include "aclnn/context.h"
#include "aclnn/settings.h"
#include "aclnn/state.h"
#include "aclnn/stream.h"

namespace moe::device {
namespace {

constexpr size_t granule = 512;  // of blocks and addresses
constexpr size_t guard = 64;     // bytes on either side of the memory
constexpr unsigned char guard_byte = 0xC5;
constexpr size_t largest_arena = size_t{64} << 30;
constexpr size_t smallest_arena = size_t{64} << 20;
// Freed blocks are not given out again while at most so many wait: a stale address stays recognisable.
constexpr size_t quarantined_blocks = 1024;
constexpr size_t quarantined_bytes = size_t{64} << 20;
// From here on pages of freed blocks go back to the system.
constexpr size_t returned_from = size_t{1} << 20;
constexpr size_t remembered_frees = 4096;
// Ranges that were written are kept apart up to so many.
constexpr size_t most_written_ranges = 256;

size_t round_up(size_t size, size_t unit) {
    return (size + unit - 1) / unit * unit;
}

struct Freed {
    Range memory;
    Origin made, by;
    uint64_t number;
};

// A block of aclrtMallocHost. Copies in streams keep it.
struct Pinned {
    Pinned(void* block, size_t bytes) : address(block), size(bytes) {}
    ~Pinned() { std::free(address); }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;

    void* const address;
    const size_t size;
    void add_access(const Access& access) {
        const auto over = [&](const Access& old) { return old.stream == access.stream || !stream_lives(old.stream); };
        accesses.erase(std::remove_if(accesses.begin(), accesses.end(), over), accesses.end());
        accesses.push_back(access);
    }

    const Origin made = origin();
    std::vector<Access> accesses;  // the last of every stream
};

struct Memory {
    Range arena;
    size_t capacity;  // bytes that may be in use
    size_t used = 0;
    uint64_t last_number = 0;
    std::map<uintptr_t, AllocationPtr> live;  // by the begin of the memory
    std::map<uintptr_t, uintptr_t> unused;    // begin to end
    std::deque<Range> quarantine;
    size_t quarantined = 0;
    std::deque<Freed> freed;
    std::map<uintptr_t, std::shared_ptr<Pinned>> pinned;

    Memory() {
        const size_t host = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
        capacity = std::min(host, largest_arena);
        for (size_t size = largest_arena; size >= smallest_arena; size /= 2) {
            void* base =
                mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (base == MAP_FAILED) continue;
            // Large pages would make every small tensor cost two megabytes.
            madvise(base, size, MADV_NOHUGEPAGE);
            arena = range_of(base, size);
            unused.emplace(arena.begin, arena.end);
            break;
        }
        capacity = std::min(capacity, arena.end - arena.begin);
    }

    bool take(size_t bytes, Range* block) {
        for (auto gap = unused.begin(); gap != unused.end(); ++gap) {
            if (gap->second - gap->first < bytes) continue;
            *block = {gap->first, gap->first + bytes};
            const uintptr_t end = gap->second;
            unused.erase(gap);
            if (block->end < end) unused.emplace(block->end, end);
            return true;
        }
        return false;
    }

    void give_back(Range block) {
        auto next = unused.upper_bound(block.begin);
        if (next != unused.begin()) {
            const auto previous = std::prev(next);
            if (previous->second == block.begin) {
                block.begin = previous->first;
                unused.erase(previous);
            }
        }
        if (next != unused.end() && next->first == block.end) {
            block.end = next->second;
            unused.erase(next);
        }
        unused.emplace(block.begin, block.end);
    }

    void release_quarantine(size_t blocks, size_t bytes) {
        while (quarantine.size() > blocks || quarantined > bytes) {
            quarantined -= quarantine.front().end - quarantine.front().begin;
            give_back(quarantine.front());
            quarantine.pop_front();
        }
    }
};

// Never destroyed: workers may outlive static objects.
Memory& memory() {
    static Memory* const instance = new Memory;
    return *instance;
}

// Blocks whose last user was a task come back without the state lock.
struct Returned {
    std::mutex mutex;
    std::vector<Range> blocks;
};
Returned& returned() {
    static Returned* const instance = new Returned;
    return *instance;
}

void collect_returned() {
    std::vector<Range> blocks;
    {
        const std::lock_guard<std::mutex> lock(returned().mutex);
        blocks.swap(returned().blocks);
    }
    for (const Range& block : blocks) {
        const size_t bytes = block.end - block.begin;
        if (bytes >= returned_from) {
            const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
            const uintptr_t begin = round_up(block.begin, page);
            madvise(reinterpret_cast<void*>(begin), block.end / page * page - begin, MADV_DONTNEED);
        }
        memory().used -= bytes;
        memory().quarantined += bytes;
        memory().quarantine.push_back(block);
    }
    memory().release_quarantine(quarantined_blocks, quarantined_bytes);
}

// Null when there is no room. `capacity` is the size with a card's padding.
AllocationPtr allocate(size_t size, size_t capacity, int32_t device) {
    collect_returned();
    Memory& m = memory();
    const size_t inner = granule + round_up(capacity + guard, granule);
    // Whole pages, and one more to begin at a page.
    const bool protects = option(MOE_ACLNN_OPTION_PROTECT);
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = protects ? round_up(inner, page) + page : inner;
    if (m.used + bytes > m.capacity) return nullptr;
    Range block;
    if (!m.take(bytes, &block)) {
        m.release_quarantine(0, 0);
        if (!m.take(bytes, &block)) return nullptr;
    }
    m.used += bytes;
    const uintptr_t begin = protects ? round_up(block.begin, page) : block.begin;
    const Range pages = {begin, protects ? begin + round_up(inner, page) : begin};
    const Range range = {begin + granule, begin + granule + capacity};
    auto allocation = std::make_shared<Allocation>(block, range, pages, size, device);
    allocation->restore_guards();
    if (option(MOE_ACLNN_OPTION_POISON)) std::memset(reinterpret_cast<void*>(range.begin), poison_byte, capacity);
    allocation->close();
    m.live.emplace(range.begin, allocation);
    return allocation;
}

void remember(const Allocation& allocation, const Origin& by) {
    memory().freed.push_back({allocation.memory, allocation.made, by, allocation.number});
    if (memory().freed.size() > remembered_frees) memory().freed.pop_front();
}

// The block of aclrtMallocHost that holds a range; null when there is none.
std::shared_ptr<Pinned> find_pinned(Range range) {
    const auto next = memory().pinned.upper_bound(range.begin);
    if (next == memory().pinned.begin()) return nullptr;
    const auto& [begin, block] = *std::prev(next);
    return range.end <= begin + block->size ? block : nullptr;
}

const Freed* find_freed(const void* address) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const auto& freed = memory().freed;
    for (auto entry = freed.rbegin(); entry != freed.rend(); ++entry)
        if (at >= entry->memory.begin && at < entry->memory.end) return &*entry;
    return nullptr;
}

}  // namespace

Allocation::Allocation(Range whole, Range inner, Range whole_pages, size_t asked_size, int32_t device_id)
    : block(whole),
      memory(inner),
      pages(whole_pages),
      size(asked_size),
      device(device_id),
      made(origin()),
      number(++device::memory().last_number) {}

Allocation::~Allocation() {
    open();
    const std::lock_guard<std::mutex> lock(returned().mutex);
    returned().blocks.push_back(block);
}

void Allocation::open() const {
    if (pages.empty()) return;
    const std::lock_guard<std::mutex> lock(pages_mutex_);
    if (openings_++ == 0)
        mprotect(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, PROT_READ | PROT_WRITE);
}

void Allocation::close() const {
    if (pages.empty()) return;
    const std::lock_guard<std::mutex> lock(pages_mutex_);
    if (--openings_ == 0) mprotect(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, PROT_NONE);
}

bool Allocation::guards_intact() const {
    const Opened opened(this);
    const auto intact = [](const char* begin) {
        return std::all_of(begin, begin + guard, [](char byte) { return byte == static_cast<char>(guard_byte); });
    };
    return intact(reinterpret_cast<const char*>(memory.begin) - guard) &&
           intact(reinterpret_cast<const char*>(memory.end));
}

void Allocation::restore_guards() const {
    const Opened opened(this);
    std::memset(reinterpret_cast<char*>(memory.begin) - guard, guard_byte, guard);
    std::memset(reinterpret_cast<char*>(memory.end), guard_byte, guard);
}

void tell_overrun(const Allocation& allocation, const char* argument) {
    record(Rule::overrun, argument, text("bytes before or after the %zu allocated ones changed", allocation.size),
           "writes inside of the allocation", allocation.about());
    allocation.restore_guards();
}

void Allocation::mark_written(Range range) {
    range = {std::max(range.begin, memory.begin), std::min(range.end, memory.end)};
    if (range.empty()) return;
    // Everything that touches the range melts into it.
    auto first = std::lower_bound(written_.begin(), written_.end(), range.begin,
                                  [](const Range& old, uintptr_t begin) { return old.end < begin; });
    auto last = first;
    for (; last != written_.end() && last->begin <= range.end; ++last)
        range = {std::min(range.begin, last->begin), std::max(range.end, last->end)};
    written_.insert(written_.erase(first, last), range);
    if (written_.size() > most_written_ranges) written_.assign(1, {written_.front().begin, written_.back().end});
}

bool Allocation::is_written(Range range) const {
    return std::any_of(written_.begin(), written_.end(), [&](const Range& old) { return old.contains(range); });
}

void Allocation::add_access(const Access& access) {
    size_t kept = 0;
    for (const Access& old : accesses_) {
        const bool covered =
            old.stream == access.stream && access.range.contains(old.range) && (access.writes || !old.writes);
        const auto seen = host_clock().find(old.stream);
        const bool over = (seen != host_clock().end() && seen->second >= old.position) || !stream_lives(old.stream);
        if (!covered && !over) accesses_[kept++] = old;
    }
    accesses_.resize(kept);
    accesses_.push_back(access);
}

std::vector<Access> Allocation::conflicts(Range range, bool writes, const Clock& known, uint64_t own) const {
    std::vector<Access> found;
    for (const Access& access : accesses_) {
        if (access.stream == own || !(access.writes || writes) || !access.range.overlaps(range)) continue;
        const auto before = [&](const Clock& clock) {
            const auto entry = clock.find(access.stream);
            return entry != clock.end() && entry->second >= access.position;
        };
        if (stream_lives(access.stream) && !before(known) && !before(host_clock())) found.push_back(access);
    }
    return found;
}

AllocationPtr find_allocation(const void* address) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    const auto next = memory().live.upper_bound(at);
    if (next == memory().live.begin()) return nullptr;
    const AllocationPtr& allocation = std::prev(next)->second;
    return at < allocation->memory.end ? allocation : nullptr;
}

bool is_device_address(const void* address) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    return at >= memory().arena.begin && at < memory().arena.end;
}

std::string describe_address(const void* address) {
    if (address == nullptr) return "null";
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (const AllocationPtr allocation = find_allocation(address))
        return text("%p, byte %zu of allocation %llu of %zu bytes", address, at - allocation->memory.begin,
                    static_cast<unsigned long long>(allocation->number), allocation->size);
    if (!is_device_address(address)) return text("%p, host memory", address);
    if (const Freed* freed = find_freed(address))
        return text("%p, device memory that was freed by ", address) + freed->by.text();
    return text("%p, device memory that was never allocated", address);
}

std::vector<AllocationPtr> live_allocations() {
    std::vector<AllocationPtr> all;
    for (const auto& [begin, allocation] : memory().live) all.push_back(allocation);
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->number < b->number; });
    return all;
}

void free_all(int32_t device, const Origin& by) {
    for (auto entry = memory().live.begin(); entry != memory().live.end();) {
        if (entry->second->device != device) {
            ++entry;
            continue;
        }
        remember(*entry->second, by);
        entry = memory().live.erase(entry);
    }
}

Status book_access(const AllocationPtr& allocation, Range range, bool writes, const std::string& argument,
                   const Stream& stream, Status strict_status, Task* task) {
    task->memory.push_back(allocation);
    const std::vector<Access> conflicts = allocation->conflicts(range, writes, stream.known, stream.number);
    if (conflicts.empty()) return 0;
    for (const Access& access : conflicts) task->after.push_back({live_stream(access.stream), access.position});
    return mistake(strict_status, Rule::unordered_streams, argument,
                   text("stream number %llu has work on it, of %s, that nothing orders before this",
                        static_cast<unsigned long long>(conflicts[0].stream), conflicts[0].api),
                   "an event or a synchronisation between them", allocation->about());
}

namespace {

using Lock = std::unique_lock<std::mutex>;

Status malloc_device(void** out, size_t size, size_t padding) {
    if (out == nullptr) return refuse(100000, Rule::null_argument, "devPtr", "null", "a place for the address");
    if (size == 0) return refuse(100000, Rule::free_misuse, "size", "0", "at least 1");
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    if (size > largest_arena)
        return refuse(207001, Rule::argument, "size", text("%zu bytes", size), "no more than the device has");
    const Lock lock(state_mutex());
    const AllocationPtr allocation = allocate(size, round_up(size, 32) + padding, context->device);
    if (allocation == nullptr)
        return refuse(207001, Rule::argument, "size", text("%zu bytes", size),
                      text("at most the %zu bytes that are free", memory().capacity - memory().used));
    *out = reinterpret_cast<void*>(allocation->memory.begin);
    return 0;
}

Status tell_unsynchronised(const char* argument, uint64_t stream, const char* api, const About& about) {
    return mistake(100000, Rule::unsynchronised, argument,
                   text("stream number %llu has work on it that was not waited for, of %s",
                        static_cast<unsigned long long>(stream), api),
                   "aclrtSynchronizeStream first", about);
}

// Tells when streams still work on the range, and adds what they have to reach to `marks`.
Status check_host_access(const Allocation& allocation, Range range, bool writes, const char* argument,
                         std::vector<Mark>* marks) {
    const std::vector<Access> conflicts = allocation.conflicts(range, writes, host_clock(), 0);
    if (conflicts.empty()) return 0;
    for (const Access& access : conflicts) marks->push_back({live_stream(access.stream), access.position});
    return tell_unsynchronised(argument, conflicts[0].stream, conflicts[0].api, allocation.about());
}

Status free_device(void* address) {
    if (address == nullptr) return refuse(100000, Rule::free_misuse, "devPtr", "null", "an address of aclrtMalloc");
    Lock lock(state_mutex());
    Memory& m = memory();
    const auto found = m.live.find(reinterpret_cast<uintptr_t>(address));
    if (found == m.live.end()) {
        const Freed* freed = find_freed(address);
        const std::string seen = m.pinned.count(reinterpret_cast<uintptr_t>(address)) != 0
                                     ? text("%p, from aclrtMallocHost", address)
                                     : describe_address(address);
        return mistake(107000, Rule::free_misuse, "devPtr", seen, "an address of aclrtMalloc that is not freed yet",
                       freed == nullptr ? About{nullptr, address, 0} : About{&freed->made, address, freed->number});
    }
    const AllocationPtr allocation = found->second;
    // A task that still uses the memory keeps it.
    std::vector<Mark> marks;
    MOE_DEVICE_TRY(check_host_access(*allocation, allocation->memory, true, "devPtr", &marks));
    if (!allocation->guards_intact()) tell_overrun(*allocation, "devPtr");
    remember(*allocation, here());
    m.live.erase(found);
    return 0;
}

// One side of a copy.
struct Side {
    const void* address;
    const char* name;
    bool writes;
    AllocationPtr allocation;        // null on the host
    std::shared_ptr<Pinned> pinned;  // null elsewhere
};

Status check_side(Side* side, size_t count, bool must_be_device, bool must_be_host) {
    const Range range = range_of(side->address, count);
    if (!is_device_address(side->address)) {
        side->pinned = find_pinned(range);
        if (!must_be_device) return 0;
        return refuse(107000, Rule::memcpy_kind, side->name, describe_address(side->address),
                      "device memory, as the kind says");
    }
    side->allocation = find_allocation(side->address);
    if (side->allocation == nullptr)
        return refuse(107000, Rule::device_pointer, side->name, describe_address(side->address),
                      "live device memory or host memory");
    if (must_be_host)
        MOE_DEVICE_TRY(mistake(100000, Rule::memcpy_kind, side->name, describe_address(side->address),
                               "host memory, as the kind says", side->allocation->about()));
    if (!side->allocation->memory.contains(range))
        return refuse(107000, Rule::memcpy_size, "count",
                      text("%zu bytes from byte %zu of an allocation of %zu", count,
                           range.begin - side->allocation->memory.begin, side->allocation->size),
                      "a range inside of the allocation", side->allocation->about());
    if (!side->allocation->asked().contains(range))
        MOE_DEVICE_TRY(mistake(100000, Rule::memcpy_size, "count",
                               text("%zu bytes from byte %zu of an allocation of %zu", count,
                                    range.begin - side->allocation->memory.begin, side->allocation->size),
                               "a range inside of the allocation", side->allocation->about()));
    return 0;
}

struct Copy {
    Side to, from;
    size_t count;
};

Status check_copy(void* dst, size_t dest_max, const void* src, size_t count, aclrtMemcpyKind kind, Copy* copy) {
    if (dst == nullptr) return refuse(100000, Rule::null_argument, "dst", "null", "an address");
    if (src == nullptr) return refuse(100000, Rule::null_argument, "src", "null", "an address");
    const int number = static_cast<int>(kind);
    if (number < 0 || number > 5) return refuse(100000, Rule::memcpy_kind, "kind", text("%d", number), "0 to 5");
    if (count > dest_max)
        return refuse(107000, Rule::memcpy_size, "count", text("%zu", count), text("at most destMax = %zu", dest_max));
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    const bool by_address = kind == ACL_MEMCPY_DEFAULT;
    const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE ||
                           kind == ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE;
    const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    *copy = {{dst, "dst", true, nullptr, nullptr}, {src, "src", false, nullptr, nullptr}, count};
    const Lock lock(state_mutex());
    MOE_DEVICE_TRY(check_side(&copy->to, count, !by_address && to_device, !by_address && !to_device));
    return check_side(&copy->from, count, !by_address && from_device, !by_address && !from_device);
}

void copy_bytes(const Copy& copy) {
    const Opened to(copy.to.allocation.get()), from(copy.from.allocation.get());
    if (copy.count > 0) std::memmove(const_cast<void*>(copy.to.address), copy.from.address, copy.count);
}

void mark_copied(const Copy& copy) {
    if (copy.from.allocation != nullptr && !copy.from.allocation->is_written(range_of(copy.from.address, copy.count)))
        warn(Rule::uninitialised, "src", text("%zu bytes that nothing was written to, or not all", copy.count),
             "memory with contents", copy.from.allocation->about());
    if (copy.to.allocation != nullptr) copy.to.allocation->mark_written(range_of(copy.to.address, copy.count));
}

// Keeps the host's access apart from the work on the same memory: waits for streams with a worker. The work of deferred
// ones may come late, which is what they are for, but not during the access.
[[nodiscard]] std::unique_lock<std::recursive_mutex> apart_from(const std::vector<Mark>& marks) {
    bool late = false;
    for (const Mark& mark : marks) {
        if (mark.stream == nullptr) continue;
        if (mark.stream->is_deferred())
            late = true;
        else
            mark.stream->wait(mark.position);
    }
    return late ? deferred_turn() : std::unique_lock<std::recursive_mutex>();
}

Status copy_now(const Copy& copy) {
    if (copy.count == 0 || copy.to.address == copy.from.address) return 0;
    std::vector<Mark> marks;
    {
        const Lock lock(state_mutex());
        if (copy.to.allocation != nullptr)
            MOE_DEVICE_TRY(
                check_host_access(*copy.to.allocation, range_of(copy.to.address, copy.count), true, "dst", &marks));
        if (copy.from.allocation != nullptr)
            MOE_DEVICE_TRY(check_host_access(*copy.from.allocation, range_of(copy.from.address, copy.count), false,
                                             "src", &marks));
        mark_copied(copy);
    }
    const auto turn = apart_from(marks);
    copy_bytes(copy);
    return 0;
}

}  // namespace

}  // namespace moe::device

using namespace moe::device;

aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy) {
    return entry(MOE_HERE, [&] { return malloc_device(devPtr, size, 32); });
}

aclError aclrtMallocAlign32(void** devPtr, size_t size, aclrtMemMallocPolicy) {
    return entry(MOE_HERE, [&] { return malloc_device(devPtr, size, 0); });
}

aclError aclrtMallocCached(void** devPtr, size_t size, aclrtMemMallocPolicy) {
    return entry(MOE_HERE, [&] { return malloc_device(devPtr, size, 32); });
}

aclError aclrtFree(void* devPtr) {
    return entry(MOE_HERE, [&] { return free_device(devPtr); });
}

aclError aclrtMallocHost(void** hostPtr, size_t size) {
    return entry(MOE_HERE, [&]() -> Status {
        if (hostPtr == nullptr)
            return refuse(100000, Rule::null_argument, "hostPtr", "null", "a place for the address");
        if (size == 0) return refuse(100000, Rule::free_misuse, "size", "0", "at least 1");
        std::shared_ptr<Context> context;
        MOE_DEVICE_TRY(need_context(&context));
        void* address = size > largest_arena ? nullptr : std::aligned_alloc(granule, round_up(size, granule));
        if (address == nullptr)
            return refuse(207001, Rule::argument, "size", text("%zu bytes", size), "no more than the host has");
        const Lock lock(state_mutex());
        memory().pinned[reinterpret_cast<uintptr_t>(address)] = std::make_shared<Pinned>(address, size);
        *hostPtr = address;
        return 0;
    });
}

aclError aclrtFreeHost(void* hostPtr) {
    return entry(MOE_HERE, [&]() -> Status {
        if (hostPtr == nullptr)
            return refuse(100000, Rule::free_misuse, "hostPtr", "null", "an address of aclrtMallocHost");
        const Lock lock(state_mutex());
        const auto found = memory().pinned.find(reinterpret_cast<uintptr_t>(hostPtr));
        if (found == memory().pinned.end())
            return mistake(107000, Rule::free_misuse, "hostPtr", describe_address(hostPtr),
                           "an address of aclrtMallocHost that is not freed yet");
        for (const Access& access : found->second->accesses) {
            const auto reached = host_clock().find(access.stream);
            if (!stream_lives(access.stream) || (reached != host_clock().end() && reached->second >= access.position))
                continue;
            MOE_DEVICE_TRY(
                tell_unsynchronised("hostPtr", access.stream, access.api, {&found->second->made, hostPtr, 0}));
            break;
        }
        memory().pinned.erase(found);
        return 0;
    });
}

aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind) {
    return entry(MOE_HERE, [&]() -> Status {
        Copy copy;
        MOE_DEVICE_TRY(check_copy(dst, destMax, src, count, kind, &copy));
        return copy_now(copy);
    });
}

aclError aclrtMemcpyAsync(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind,
                          aclrtStream stream) {
    return entry(MOE_HERE, [&]() -> Status {
        Copy copy;
        MOE_DEVICE_TRY(check_copy(dst, destMax, src, count, kind, &copy));
        std::shared_ptr<Stream> queue;
        MOE_DEVICE_TRY(usable_stream(stream, &queue));
        if (count == 0 || dst == src) return 0;
        if (copy.to.allocation == nullptr && copy.from.allocation == nullptr)
            return refuse(207000, Rule::memcpy_kind, "kind", "both sides on the host", "at least one on the device");
        Task task{origin(), {}, {}, [copy]() -> Status {
                      copy_bytes(copy);
                      return 0;
                  }};
        Lock lock(state_mutex());
        bool pageable = false;
        for (const Side* side : {&copy.to, &copy.from})
            if (side->allocation != nullptr)
                MOE_DEVICE_TRY(book_access(side->allocation, range_of(side->address, count), side->writes, side->name,
                                           *queue, 100000, &task));
            else if (side->pinned == nullptr)
                pageable = true;
        mark_copied(copy);
        const uint64_t position = queue->submit(std::move(task));
        for (const Side* side : {&copy.to, &copy.from}) {
            const Access access = {queue->number, position, range_of(side->address, count), side->writes, here().api};
            if (side->allocation != nullptr)
                side->allocation->add_access(access);
            else if (side->pinned != nullptr)
                side->pinned->add_access(access);
        }
        lock.unlock();
        // Pageable memory is the client's again when the call returns.
        if (pageable) queue->wait(position);
        return 0;
    });
}

namespace {

Status check_fill(void* target, size_t max_count, size_t count, Side* side) {
    if (target == nullptr) return refuse(100000, Rule::null_argument, "devPtr", "null", "an address");
    if (count > max_count)
        return refuse(107000, Rule::memcpy_size, "count", text("%zu", count),
                      text("at most maxCount = %zu", max_count));
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    *side = {target, "devPtr", true, nullptr, nullptr};
    const Lock lock(state_mutex());
    return check_side(side, count, true, false);
}

}  // namespace

aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count) {
    return entry(MOE_HERE, [&]() -> Status {
        Side side;
        MOE_DEVICE_TRY(check_fill(devPtr, maxCount, count, &side));
        if (count == 0) return 0;
        std::vector<Mark> marks;
        {
            const Lock lock(state_mutex());
            MOE_DEVICE_TRY(check_host_access(*side.allocation, range_of(devPtr, count), true, "devPtr", &marks));
            side.allocation->mark_written(range_of(devPtr, count));
        }
        const auto turn = apart_from(marks);
        const Opened opened(side.allocation.get());
        std::memset(devPtr, value & 0xFF, count);
        return 0;
    });
}

aclError aclrtMemsetAsync(void* devPtr, size_t maxCount, int32_t value, size_t count, aclrtStream stream) {
    return entry(MOE_HERE, [&]() -> Status {
        Side side;
        MOE_DEVICE_TRY(check_fill(devPtr, maxCount, count, &side));
        std::shared_ptr<Stream> queue;
        MOE_DEVICE_TRY(usable_stream(stream, &queue));
        if (count == 0) return 0;
        Task task{origin(), {}, {}, [devPtr, value, count, allocation = side.allocation]() -> Status {
                      const Opened opened(allocation.get());
                      std::memset(devPtr, value & 0xFF, count);
                      return 0;
                  }};
        const Lock lock(state_mutex());
        const Range range = range_of(devPtr, count);
        MOE_DEVICE_TRY(book_access(side.allocation, range, true, "devPtr", *queue, 100000, &task));
        side.allocation->mark_written(range);
        const uint64_t position = queue->submit(std::move(task));
        side.allocation->add_access({queue->number, position, range, true, here().api});
        return 0;
    });
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
    return entry(MOE_HERE, [&]() -> Status {
        if (free == nullptr) return refuse(100000, Rule::null_argument, "free", "null", "a place for the result");
        if (total == nullptr) return refuse(100000, Rule::null_argument, "total", "null", "a place for the result");
        std::shared_ptr<Context> context;
        MOE_DEVICE_TRY(need_context(&context));
        const Lock lock(state_mutex());
        collect_returned();
        *free = memory().capacity - memory().used;
        *total = memory().capacity;
        return 0;
    });
}

aclError aclrtPointerGetAttributes(const void* ptr, aclrtPtrAttributes* attributes) {
    return entry(MOE_HERE, [&]() -> Status {
        if (attributes == nullptr)
            return refuse(100000, Rule::null_argument, "attributes", "null", "a place for the result");
        if (ptr == nullptr) return refuse(100000, Rule::null_argument, "ptr", "null", "an address");
        const Lock lock(state_mutex());
        *attributes = {};
        attributes->pageSize = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
        if (const AllocationPtr allocation = find_allocation(ptr))
            attributes->location = {static_cast<uint32_t>(allocation->device), ACL_MEM_LOCATION_TYPE_DEVICE};
        else if (find_pinned(range_of(ptr, 1)) != nullptr)
            attributes->location = {0, ACL_MEM_LOCATION_TYPE_HOST};
        else
            attributes->location = {0, ACL_MEM_LOCATION_TYPE_UNREGISTERED};
        return 0;
    });
}
