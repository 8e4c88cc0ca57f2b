// Device memory: a range of addresses of its own, so that every address is known to be device memory or not, live or
// freed, without being touched.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "aclnn/call.h"

namespace moe::device {

// Which work of which stream is known to come before something: numbers of streams, and positions in their queues.
using Clock = std::map<uint64_t, uint64_t>;

// Half-open range of addresses.
struct Range {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    bool empty() const { return begin >= end; }
    bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
    bool contains(const Range& other) const { return begin <= other.begin && other.end <= end; }
};
// A size that no address space holds ends with the last address, not before the first.
inline Range range_of(const void* data, size_t size) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    return {begin, begin + std::min<uintptr_t>(size, UINTPTR_MAX - begin)};
}

// Work in a stream that uses a range.
struct Access {
    uint64_t stream;  // number
    uint64_t position;
    Range range;
    bool writes;
    const char* api;
};

// A block from aclrtMalloc. The fields that change are under the state lock.
class Allocation {
  public:
    Allocation(Range block, Range memory, Range pages, size_t size, int32_t device);
    ~Allocation();
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;

    About about() const { return {&made, reinterpret_cast<const void*>(memory.begin), number}; }
    // What the client asked for; `memory` also has the padding that a card adds.
    Range asked() const { return {memory.begin, memory.begin + size}; }

    // The bytes around the memory still hold what was put there.
    bool guards_intact() const;
    void restore_guards() const;

    // With MOE_ACLNN_OPTION_PROTECT the memory faults unless somebody has it open.
    void open() const;
    void close() const;

    void mark_written(Range range);
    bool is_written(Range range) const;

    void add_access(const Access& access);
    // Work on the range that conflicts, and that `known` does not have, in streams other than `own`.
    std::vector<Access> conflicts(Range range, bool writes, const Clock& known, uint64_t own) const;

    const Range block;
    const Range memory;
    const Range pages;  // that are protected; empty: none
    const size_t size;
    const int32_t device;
    const Origin made;
    const uint64_t number;  // in the order of making

  private:
    mutable std::mutex pages_mutex_;
    mutable int openings_ = 1;  // whoever makes it closes it

    std::vector<Range> written_;  // ascending, apart
    std::vector<Access> accesses_;
};
using AllocationPtr = std::shared_ptr<Allocation>;

// Keeps an allocation open; null is fine.
class Opened {
  public:
    explicit Opened(const Allocation* allocation) : allocation_(allocation) {
        if (allocation != nullptr) allocation->open();
    }
    ~Opened() {
        if (allocation_ != nullptr) allocation_->close();
    }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

  private:
    const Allocation* const allocation_;
};

// What fresh memory and workspaces hold when they are to be poisoned.
constexpr int poison_byte = 0xA5;

// Reports bytes that changed around an allocation, once.
void tell_overrun(const Allocation& allocation, const char* argument);

// --- All of these under the state lock. ---

// The live allocation that an address lies in (padding included); null when there is none.
AllocationPtr find_allocation(const void* address);

bool is_device_address(const void* address);

// "800 bytes of 1536 in allocation 3", "host memory", "device memory freed by ...": for messages.
std::string describe_address(const void* address);

std::vector<AllocationPtr> live_allocations();

// Takes all memory of a device away.
void free_all(int32_t device, const Origin& by);

class Stream;
struct Task;

// Books what a task of a stream is going to do to a range: keeps the memory, and waits for work of other streams that
// nothing orders before it. That is a finding; waiting keeps kernels from reading what they have checked a second time.
Status book_access(const AllocationPtr& allocation, Range range, bool writes, const std::string& argument,
                   const Stream& stream, Status strict_status, Task* task);

}  // namespace moe::device
