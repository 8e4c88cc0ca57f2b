// A seeded random client: sequences of valid and invalid calls of every function, from several threads, in all modes.
// What it hands over is what a client can get wrong without its own process being at fault: handles and device
// addresses are anything, arrays and places for results are there or null.
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "operators.h"

namespace fuzz {
namespace {

using Job = std::function<void()>;

enum Kind { tensor, scalar, ints, floats, bools, tensors, scalars, executor, stream, event, context, memory, pinned };
constexpr int kind_count = pinned + 1;

// What the driver believes: whether a call succeeded never changes what it does next.
struct Slot {
    void* handle = nullptr;
    bool live = false;
    uint64_t size = 0;  // of memory; of the workspace of an executor
    int user = -1;      // recipe of an executor
};

struct Operand {
    Slot* tensor;
    Slot* memory;
    bool spoiled = false;  // the tensor is not that of the recipe
    bool dirty = false;    // nor are the contents
};

// The tensors of a recipe.
struct Instance {
    const Recipe* recipe;
    size_t number;  // of the recipe
    std::vector<Operand> operands;
    std::vector<Slot*> arrays;  // by argument
    size_t uses_left = 0;
    size_t stream;
};

// A thread that does what it is told.
class Performer {
  public:
    Performer() : thread_([this] { work(); }) {}
    ~Performer() {
        start(nullptr);
        thread_.join();
    }
    void start(Job job) {
        const std::lock_guard<std::mutex> lock(mutex_);
        job_ = std::move(job);
        busy_ = true;
        changed_.notify_all();
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return !busy_; });
    }

  private:
    void work() {
        for (;;) {
            Job job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                changed_.wait(lock, [this] { return busy_; });
                job = std::move(job_);
            }
            if (job == nullptr) return;
            job();
            const std::lock_guard<std::mutex> lock(mutex_);
            busy_ = false;
            changed_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    Job job_;
    bool busy_ = false;
    std::thread thread_;
};

constexpr size_t thread_count = 4;  // the driver is the first
constexpr size_t stream_count = 5, home_streams = 3;
constexpr size_t host_bytes = 1 << 16, most_copied = 4096;
constexpr size_t workspace_bytes = 1 << 20;

void count_finding(const moe_aclnn_finding* finding, void*) {
    if (finding->severity != MOE_ACLNN_WARNING) ++mistakes;
    const std::lock_guard<std::mutex> lock(tally().mutex);
    ++tally().rules[finding->rule];
}

class Driver {
  public:
    Driver(uint64_t seed, uint64_t calls) : random_(seed), wanted_(calls), recipes_(make_recipes()) {
        constexpr size_t counts[kind_count] = {16, 4, 6, 4, 4, 4, 4, 24, stream_count, 6, 2, 16, 4};
        for (int kind = 0; kind < kind_count; ++kind) {
            for (size_t i = 0; i < counts[kind]; ++i) add_slot(static_cast<Kind>(kind));
            dead_[kind].assign(32, nullptr);
        }
        for (size_t i = 0; i < recipes_.size(); ++i) {
            Instance instance = {&recipes_[i], i, {}, {}, 0, i % home_streams};
            for (size_t o = 0; o < recipes_[i].operands.size(); ++o)
                instance.operands.push_back({add_slot(tensor), add_slot(memory)});
            for (const Argument& argument : recipes_[i].arguments)
                instance.arrays.push_back(argument.kind == Argument::Kind::array ? add_slot(ints) : nullptr);
            instances_.push_back(std::move(instance));
        }
        for (size_t i = 0; i < home_streams + 1; ++i) workspaces_.push_back(add_slot(memory));
        for (size_t i = 0; i + 1 < thread_count; ++i) performers_.push_back(std::make_unique<Performer>());
        for (char& byte : host_) byte = static_cast<char>(random_.next());
        moe_aclnn_set_callback(count_finding, nullptr);
    }

    void run() {
        begin_epoch();
        size_t moves_left = epoch_moves();
        while (tally().total < wanted_) {
            if (moves_left-- == 0) {
                end_epoch();
                begin_epoch();
                moves_left = epoch_moves();
            }
            if (random_.below(100) < 6)
                burst();
            else
                move();
        }
        thread_ = 0;
        end_epoch();
    }

  private:
    // --- Doing ------------------------------------------------------------------------------------------------------

    // On the current thread; or later, beside the others of a burst. `settle` is the driver's.
    void act(Job job, Job settle = nullptr) {
        if (bursting_) {
            waiting_.push_back({thread_, std::move(job), std::move(settle)});
            return;
        }
        if (thread_ == 0) {
            job();
        } else {
            performers_[thread_ - 1]->start(std::move(job));
            performers_[thread_ - 1]->wait();
        }
        if (settle != nullptr) settle();
    }

    // A move for every thread at once. Moves that need the results of their own calls do not take part.
    void burst() {
        bursting_ = true;
        for (thread_ = 0; thread_ < thread_count; ++thread_) one_call();
        bursting_ = false;
        std::vector<Waiting> all;
        all.swap(waiting_);
        // A move is one job or none.
        for (const Waiting& one : all)
            if (one.thread != 0) performers_[one.thread - 1]->start(one.job);
        for (const Waiting& one : all)
            if (one.thread == 0) one.job();
        for (const Waiting& one : all)
            if (one.thread != 0) performers_[one.thread - 1]->wait();
        for (const Waiting& one : all)
            if (one.settle != nullptr) one.settle();
    }

    void move() {
        thread_ = random_.chance(65) ? 0 : random_.below(thread_count);
        if (astray_[thread_] && random_.chance(25)) come_home();
        const size_t which = random_.below(1000);
        if (which < 640)
            run_operator();
        else if (which < 680)
            plan(instances_[random_.below(instances_.size())]);
        else if (which < 700)
            synchronise_homes();
        else if (which < 706)
            change_settings();
        else if (which < 714)
            disturb();
        else if (which < 718)
            wander();
        else if (which < 730)
            scribble();
        else if (which < 749)
            make_list();
        else if (which < 769)
            aim();
        else
            one_call();
    }

    // What chance alone hits too seldom, in turn.
    void aim() {
        const auto is_output = [](const Spec& spec) { return spec.contents.empty(); };
        switch (turn(&next_aim_, 7)) {
            case 0: {  // tiles of no size that there is
                Instance& instance = instance_of("NpuFormatCast");
                retell(
                    instance, [](const Spec& spec) { return !spec.tiles.empty(); },
                    [](Telling* telling) { telling->storage[telling->storage_rank - 1] = 24; });
                plan(instance, false);
                return;
            }
            case 1: {  // an output with gaps, of an operator that writes densely
                Instance& instance = instance_of("MoeGatingTopKSoftmax");
                retell(instance, is_output, [](Telling* telling) {
                    telling->has_strides = true;
                    telling->strides[0] *= 2;
                });
                plan(instance, false);
                return;
            }
            case 2:  // nulls that a card does not survive
                return plan_without(instance_of("FFN"), Argument::Kind::text);
            case 3:
                return plan_without(instance_of("MoeInitRoutingV3"), Argument::Kind::array);
            case 4: {  // an output over an input
                Instance& instance = instance_of("SwiGlu");
                void* const input = instance.operands[0].memory->handle;
                retell(instance, is_output, [input](Telling* telling) { telling->data = input; });
                launch(plan(instance, false), instance.stream, true);
                return;
            }
            case 5: {  // rows of bytes where there are wider ones
                Instance& instance = instance_of("MoeInitRoutingV3");
                const int mode = mode_;
                set_mode(MOE_ACLNN_COMPAT);
                retell(instance, is_output, [](Telling* telling) { telling->dtype = ACL_INT8; });
                plan(instance, false);
                set_mode(mode);
                return;
            }
            default:
                scribble();
        }
    }

    // One call, on its own.
    void one_call() {
        switch (random_.below(12)) {
            case 0:
            case 1:
                return memory_call();
            case 2:
            case 3:
                return stream_call();
            case 4:
                return query_call();
            case 5:
            case 6:
                return tensor_call();
            case 7:
                return array_call();
            case 8:
                return executor_call();
            case 9:
                return plugin_call();
            default:
                return launch(pick_slot(executor), random_.below(stream_count), false);
        }
    }

    // --- Choosing ---------------------------------------------------------------------------------------------------

    static size_t turn(size_t* next, size_t count) { return (*next)++ % count; }

    Instance& instance_of(const Operator* op, bool right = false) {
        size_t at;
        do at = random_.below(instances_.size());
        while (instances_[at].recipe->op != op || (right && !instances_[at].recipe->right));
        return instances_[at];
    }
    Instance& instance_of(const char* name) { return instance_of(Recipe(name).op); }

    Slot* add_slot(Kind kind) {
        slots_[kind].push_back(std::make_unique<Slot>());
        return slots_[kind].back().get();
    }

    Slot* pick_slot(Kind kind) { return slots_[kind][random_.below(slots_[kind].size())].get(); }

    // A live one if the driver knows any.
    Slot* pick_live(Kind kind) {
        const size_t count = slots_[kind].size(), start = random_.below(count);
        for (size_t i = 0; i < count; ++i) {
            Slot* slot = slots_[kind][(start + i) % count].get();
            if (slot->live) return slot;
        }
        return nullptr;
    }

    void* foreign() {
        static int object;
        const uint64_t handle = 0xAC1ull << 52 | random_.below(16) << 48;
        switch (random_.below(8)) {
            case 0:
                return &object;
            case 1:
                return reinterpret_cast<void*>(uintptr_t{0x10});
            case 2:
                return reinterpret_cast<void*>(handle | 0xFFFFFFFFFFFF);
            case 3:
                return reinterpret_cast<void*>(handle | random_.below(100000));
            case 4:
                return reinterpret_cast<void*>(handle);
            case 5:
                return reinterpret_cast<void*>(~uintptr_t{0} - random_.below(64));
            case 6:
                return shifted(pick_slot(memory)->handle, random_.below(64));
            default:
                return reinterpret_cast<void*>(static_cast<uintptr_t>(random_.next()));
        }
    }

    void* unfit(Kind kind) {
        switch (random_.below(4)) {
            case 0:
                return nullptr;
            case 1:
                return dead_[kind][random_.below(dead_[kind].size())];
            case 2:
                return pick_slot(static_cast<Kind>(random_.below(kind_count)))->handle;
            default:
                return foreign();
        }
    }

    // `from` is the slot that it comes from, for those who are going to destroy it.
    void* pick(Kind kind, Slot** from = nullptr) {
        Slot* const slot = random_.chance(80) ? pick_live(kind) : nullptr;
        if (from != nullptr) *from = slot;
        return slot != nullptr ? slot->handle : unfit(kind);
    }
    template <class T>
    T* pick(Kind kind, Slot** from = nullptr) {
        return static_cast<T*>(pick(kind, from));
    }

    // Any address at all; the caller may not make the host's processor follow it.
    void* any_address() {
        switch (random_.below(6)) {
            case 0:
                return host_ + random_.below(host_bytes / 2);
            case 1:
                return shifted(pick(memory), random_.below(128));
            case 2:
                return unfit(memory);
            case 3:
                return pick(pinned);
            default:
                return pick(memory);
        }
    }

    template <class T>
    T* place(T* value) {
        return random_.chance(4) ? nullptr : value;
    }

    int64_t odd_number() {
        switch (random_.below(6)) {
            case 0:
                return -1;
            case 1:
                return 0;
            case 2:
                return static_cast<int64_t>(random_.next());
            case 3:
                return int64_t{1} << (40 + random_.below(23));
            case 4:
                return -(int64_t{1} << random_.below(63));
            default:
                return static_cast<int64_t>(random_.below(64));
        }
    }

    int odd_enum() {
        return random_.chance(70) ? static_cast<int>(random_.below(60)) - 2 : static_cast<int>(random_.next());
    }

    // The handle of a slot is about to be destroyed, or was.
    void bury(Kind kind, Slot* slot) {
        if (slot == nullptr) return;
        void*& grave = dead_[kind][random_.below(dead_[kind].size())];
        if (slot->handle != nullptr) grave = slot->handle;
        slot->handle = nullptr;
        slot->live = false;
    }

    static void fill(Slot* slot, void* handle, uint64_t size = 0) {
        slot->handle = handle;
        slot->live = true;
        slot->size = size;
    }

    // A slot for something new, and what it holds, which the caller has to destroy.
    std::pair<Slot*, void*> vacate(Kind kind) {
        Slot* const slot = pick_slot(kind);
        void* const old = slot->handle;
        bury(kind, slot);
        return {slot, old};
    }

    // --- Memory -----------------------------------------------------------------------------------------------------

    // Jobs run later: results live in what they share with `settle`.
    template <class T>
    static std::shared_ptr<T> result() {
        return std::make_shared<T>();
    }

    size_t some_size() { return random_.chance(95) ? random_.one_of<size_t>({1, 12, 64, 100, 512, 4096}) : 0; }

    void allocate(Slot* slot, void* old, size_t size, size_t which, bool somewhere = true) {
        const auto made = result<void*>();
        act(
            [=] {
                if (old != nullptr) CALL(aclrtFree, old);
                void** const out = somewhere ? made.get() : nullptr;
                const auto policy = static_cast<aclrtMemMallocPolicy>(which % 8);
                if (which < 6)
                    CALL(aclrtMalloc, out, size, policy);
                else if (which == 6)
                    CALL(aclrtMallocAlign32, out, size, policy);
                else
                    CALL(aclrtMallocCached, out, size, policy);
            },
            [=] { fill(slot, *made, size); });
    }

    struct Copy {
        void *to, *from;
        size_t most, count;
        aclrtMemcpyKind kind;
    };

    // Host sides are memory of the client, of as many bytes as the copy has.
    Copy some_copy() {
        Copy copy = {nullptr, nullptr, most_copied, 0, ACL_MEMCPY_DEFAULT};
        bool device[2] = {};
        for (int side = 0; side < 2; ++side) {
            void*& address = side == 0 ? copy.to : copy.from;
            const size_t which = random_.below(10);
            device[side] = which < 5;
            if (which < 5) {
                Slot* const slot = random_.chance(90) ? pick_live(memory) : nullptr;
                // An address of the past, or null, is device memory or nothing.
                address = slot != nullptr ? slot->handle : dead_[memory][random_.below(dead_[memory].size())];
                if (address != nullptr && random_.chance(20)) address = shifted(address, random_.below(96));
                if (slot != nullptr) copy.most = std::min<size_t>(copy.most, std::max<uint64_t>(1, slot->size));
            } else if (which < 7) {
                const Slot* slot = pick_live(pinned);
                address = slot == nullptr ? nullptr : slot->handle;
                if (slot != nullptr) copy.most = std::min<size_t>(copy.most, slot->size);
            } else if (which < 8 && random_.chance(20)) {
                address = nullptr;
            } else {
                address = host_ + random_.below(host_bytes - most_copied);
            }
        }
        copy.count = random_.chance(95) ? random_.below(copy.most + 1) : 0;
        // The right kind more often than not.
        copy.kind = static_cast<aclrtMemcpyKind>(random_.chance(75) ? (device[1] ? 2 : 0) + (device[0] ? 1 : 0)
                                                                    : random_.below(10));
        if (copy.kind == ACL_MEMCPY_HOST_TO_DEVICE || copy.kind == ACL_MEMCPY_DEVICE_TO_HOST)
            if (random_.chance(75)) copy.kind = device[1] ? ACL_MEMCPY_DEVICE_TO_HOST : ACL_MEMCPY_HOST_TO_DEVICE;
        if (random_.chance(4)) copy.most = random_.below(copy.count + 1);
        // More than anybody has: only towards or from device memory, which the library knows the size of.
        if (device[0] && device[1] && random_.chance(6)) {
            copy.count = random_.one_of<size_t>({8192, size_t{1} << 40, ~size_t{0}, ~size_t{0} - 4096});
            copy.most = random_.chance(70) ? ~size_t{0} : copy.most;
        }
        return copy;
    }

    void memory_call() {
        switch (random_.below(10)) {
            case 0: {
                const auto [slot, old] = vacate(memory);
                const size_t size = random_.chance(3) ? static_cast<size_t>(odd_number()) : some_size();
                // Memory of the device is not touched before it is used, but counts.
                return allocate(slot, old, size > most_copied && size < (size_t{1} << 40) ? 64 : size, random_.below(8),
                                !random_.chance(3));
            }
            case 1: {
                Slot* slot;
                void* address = pick(memory, &slot);
                if (random_.chance(70)) return query_call();  // rather than an operand of somebody
                if (slot != nullptr && random_.chance(10)) {
                    address = shifted(address, 8);
                    slot = nullptr;
                }
                bury(memory, slot);
                return act([=] { CALL(aclrtFree, address); });
            }
            case 2: {
                if (bursting_) return query_call();  // others may be copying
                const auto [slot, old] = vacate(pinned);
                const size_t size = random_.chance(3) ? 0 : most_copied;
                const auto made = result<void*>();
                void** const out = place(made.get());
                return act(
                    [=, slot = slot, old = old] {
                        if (old != nullptr) CALL(aclrtFreeHost, old);
                        CALL(aclrtMallocHost, out, size);
                    },
                    [=, slot = slot] { fill(slot, *made, size); });
            }
            case 3: {
                if (bursting_) return query_call();
                Slot* slot;
                void* address = pick(pinned, &slot);
                for (const auto& other : slots_[pinned])  // which copies may use
                    if (slot == nullptr && other->handle == address) address = nullptr;
                bury(pinned, slot);
                return act([=] { CALL(aclrtFreeHost, address); });
            }
            case 4:
            case 5: {
                const Copy copy = some_copy();
                return act([=] { CALL(aclrtMemcpy, copy.to, copy.most, copy.from, copy.count, copy.kind); });
            }
            case 6:
            case 7: {
                const Copy copy = some_copy();
                void* const queue = pick(stream);
                return act(
                    [=] { CALL(aclrtMemcpyAsync, copy.to, copy.most, copy.from, copy.count, copy.kind, queue); });
            }
            default: {
                Slot* const slot = random_.chance(75) ? pick_live(memory) : nullptr;
                void* const address = slot != nullptr ? slot->handle : any_address();
                const size_t size = slot != nullptr ? std::min<size_t>(slot->size, most_copied) : most_copied;
                size_t count = random_.chance(90) ? random_.below(size + 1) : static_cast<size_t>(odd_number());
                const size_t most = random_.chance(90) ? std::max(size, count) : random_.below(4096);
                const int value = static_cast<int>(random_.next());
                void* const queue = pick(stream);
                if (random_.chance(50)) return act([=] { CALL(aclrtMemset, address, most, value, count); });
                return act([=] { CALL(aclrtMemsetAsync, address, most, value, count, queue); });
            }
        }
    }

    // A client that writes beside its memory, where the host may.
    void scribble() {
        if (protected_) return;
        Slot* const slot = slots_[memory][random_.below(16)].get();
        void* const old = slot->handle;
        bury(memory, slot);
        const auto made = result<void*>();
        act(
            [=] {
                if (old != nullptr) CALL(aclrtFree, old);
                // New, so that nobody else is in its place.
                if (CALL(aclrtMalloc, made.get(), 64, ACL_MEM_MALLOC_HUGE_FIRST) == 0)
                    static_cast<volatile char*>(*made)[-1] = 7;
            },
            [=] { fill(slot, *made, 64); });
    }

    // --- Streams, events, contexts ----------------------------------------------------------------------------------

    void make_stream(Slot* slot, void* old, unsigned flag, bool plain, bool somewhere = true) {
        const auto made = result<aclrtStream>();
        act(
            [=] {
                if (old != nullptr) CALL(aclrtDestroyStream, old);
                aclrtStream* const out = somewhere ? made.get() : nullptr;
                if (plain)
                    CALL(aclrtCreateStream, out);
                else
                    CALL(aclrtCreateStreamWithConfig, out, 0, flag);
            },
            [=] { fill(slot, *made); });
    }

    void stream_call() {
        const auto timeout = random_.one_of<int32_t>({-1, -1, 0, 1, 100, -2, INT32_MIN});
        switch (random_.below(16)) {
            case 0: {
                // The home streams are left alone, mostly.
                Slot* slot =
                    slots_[stream][random_.chance(80) ? home_streams + random_.below(2) : random_.below(5)].get();
                void* const old = slot->handle;
                bury(stream, slot);
                return make_stream(slot, old, static_cast<unsigned>(random_.below(5)), random_.chance(50),
                                   !random_.chance(3));
            }
            case 1: {
                Slot* slot = nullptr;
                void* queue = random_.chance(30) ? pick(stream, &slot) : unfit(stream);
                bury(stream, slot);
                if (random_.chance(50)) return act([=] { CALL(aclrtDestroyStream, queue); });
                return act([=] { CALL(aclrtDestroyStreamForce, queue); });
            }
            case 2:
            case 3: {
                void* const queue = pick(stream);
                return act([=] { CALL(aclrtSynchronizeStream, queue); });
            }
            case 4: {
                void* const queue = pick(stream);
                return act([=] { CALL(aclrtSynchronizeStreamWithTimeout, queue, timeout); });
            }
            case 5: {
                void* const queue = pick(stream);
                const auto seen = result<aclrtStreamStatus>();
                aclrtStreamStatus* const out = place(seen.get());
                return act([=, kept = seen] { CALL(aclrtStreamQuery, queue, out); });
            }
            case 6: {
                const auto [slot, old] = vacate(event);
                const auto made = result<aclrtEvent>();
                aclrtEvent* const out = place(made.get());
                const unsigned flag = random_.chance(80) ? ACL_EVENT_SYNC : static_cast<unsigned>(random_.next());
                const bool plain = random_.chance(50);
                return act(
                    [=, old = old] {
                        if (old != nullptr) CALL(aclrtDestroyEvent, old);
                        if (plain)
                            CALL(aclrtCreateEvent, out);
                        else
                            CALL(aclrtCreateEventWithFlag, out, flag);
                    },
                    [=, slot = slot] { fill(slot, *made); });
            }
            case 7: {
                Slot* slot;
                void* const handle = pick(event, &slot);
                bury(event, slot);
                return act([=] { CALL(aclrtDestroyEvent, handle); });
            }
            case 8:
            case 9: {
                void *const handle = pick(event), *const queue = pick(stream);
                return act([=] { CALL(aclrtRecordEvent, handle, queue); });
            }
            case 10:
            case 11: {
                void *const handle = pick(event), *const queue = pick(stream);
                return act([=] { CALL(aclrtStreamWaitEvent, queue, handle); });
            }
            case 12: {
                void* const handle = pick(event);
                const auto seen = result<aclrtEventRecordedStatus>();
                aclrtEventRecordedStatus* const out = place(seen.get());
                return act([=, kept = seen] { CALL(aclrtQueryEventStatus, handle, out); });
            }
            case 13: {
                void* const handle = pick(event);
                return act([=] { CALL(aclrtSynchronizeEvent, handle); });
            }
            case 14: {
                void *const from = pick(event), *const to = pick(event);
                const auto seen = result<float>();
                float* const out = place(seen.get());
                return act([=, kept = seen] { CALL(aclrtEventElapsedTime, out, from, to); });
            }
            default:
                if (random_.chance(50)) return act([=] { CALL(aclrtSynchronizeDevice, ); });
                return act([=] { CALL(aclrtSynchronizeDeviceWithTimeout, timeout); });
        }
    }

    // Leaves the context of this thread for a while.
    void wander() {
        const auto device = random_.one_of<int32_t>({-1, 0, 0, 1, 1, 99});
        astray_[thread_] = true;
        switch (turn(&next_walk_, 6)) {
            case 0: {
                const auto [slot, old] = vacate(context);
                const auto made = result<aclrtContext>();
                aclrtContext* const out = place(made.get());
                return act(
                    [=, old = old] {
                        if (old != nullptr) CALL(aclrtDestroyContext, old);
                        CALL(aclrtCreateContext, out, device);
                    },
                    [=, slot = slot] { fill(slot, *made); });
            }
            case 1: {
                Slot* slot;
                void* const handle = pick(context, &slot);
                bury(context, slot);
                return act([=] { CALL(aclrtDestroyContext, handle); });
            }
            case 2: {
                void* const handle = pick(context);
                return act([=] { CALL(aclrtSetCurrentContext, handle); });
            }
            case 3:  // balanced
                return act([=] {
                    CALL(aclrtSetDevice, device);
                    CALL(aclrtResetDevice, device);
                });
            case 4:
                return act([=] { CALL(aclrtResetDeviceForce, device == 0 ? 1 : device); });
            default:
                return act([=] { CALL(aclrtSetDevice, device); });
        }
    }

    void come_home() {
        astray_[thread_] = false;
        void* const home = home_;
        if (random_.chance(50) || home == nullptr) return act([=] { CALL(aclrtSetDevice, 0); });
        act([=] { CALL(aclrtSetCurrentContext, home); });
    }

    void synchronise_homes() {
        for (size_t i = 0; i < home_streams; ++i) {
            Slot* const slot = slots_[stream][i].get();
            if (!slot->live) make_stream(slot, nullptr, 0, true);
        }
        void* const queue = slots_[stream][random_.below(home_streams)]->handle;
        act([=] { CALL(aclrtSynchronizeStream, queue); });
    }

    // --- Questions --------------------------------------------------------------------------------------------------

    struct Answers {
        uint64_t count;
        int32_t numbers[3];
        uint32_t devices;
        aclrtRunMode mode;
        size_t sizes[2];
        aclrtPtrAttributes attributes;
        aclCANNPackageVersion version;
        int64_t value;
        aclrtContext context;
    };

    void query_call() {
        const auto answers = result<Answers>();
        Answers* const to = answers.get();
        const bool there = !random_.chance(4);
        const auto option = static_cast<aclSysParamOpt>(random_.below(5));
        const int64_t value = random_.chance(80) ? static_cast<int64_t>(random_.below(2)) : odd_number();
        switch (random_.below(19)) {
            case 0:
                return act([=, kept = answers] {
                    CALL(aclrtGetVersion, to->numbers, to->numbers + 1, there ? to->numbers + 2 : nullptr);
                });
            case 1: {
                const auto package = static_cast<aclCANNPackageName>(random_.below(9));
                return act(
                    [=, kept = answers] { CALL(aclsysGetCANNVersion, package, there ? &to->version : nullptr); });
            }
            case 2:
                return act([=] {
                    const char* text = LOOK(aclGetRecentErrMsg, );
                    if (text != nullptr && std::strlen(text) == 0) std::abort();
                });
            case 3:
                return act([=] { LOOK(aclrtGetSocName, ); });
            case 4:
                return act([=, kept = answers] { CALL(aclrtGetDevice, there ? to->numbers : nullptr); });
            case 5:
                return act([=, kept = answers] { CALL(aclrtGetDeviceCount, there ? &to->devices : nullptr); });
            case 6:
                return act([=, kept = answers] { CALL(aclrtGetRunMode, there ? &to->mode : nullptr); });
            case 7:
                return act([=, kept = answers] {
                    CALL(aclrtGetMemInfo, ACL_HBM_MEM, to->sizes, there ? to->sizes + 1 : nullptr);
                });
            case 8: {
                void* const address = any_address();
                return act([=, kept = answers] {
                    CALL(aclrtPointerGetAttributes, address, there ? &to->attributes : nullptr);
                });
            }
            case 9: {
                const auto level = static_cast<aclrtLastErrLevel>(there ? 0 : 1);
                if (random_.chance(50)) return act([=] { CALL(aclrtPeekAtLastError, level); });
                return act([=] { CALL(aclrtGetLastError, level); });
            }
            case 10: {
                const auto dtype = static_cast<aclDataType>(odd_enum());
                return act([=] { LOOK(aclDataTypeSize, dtype); });
            }
            case 11: {
                const auto bits = static_cast<aclFloat16>(random_.next());
                return act([=] {
                    const float number = LOOK(aclFloat16ToFloat, bits);
                    LOOK(aclFloatToFloat16, number);
                });
            }
            case 12:
                return act([=] { CALL(aclrtSetSysParamOpt, option, value); });
            case 13:
                return act([=, kept = answers] { CALL(aclrtGetSysParamOpt, option, there ? &to->value : nullptr); });
            case 14:
                return act([=] { CALL(aclrtCtxSetSysParamOpt, option, value); });
            case 15:
                return act([=, kept = answers] { CALL(aclrtCtxGetSysParamOpt, option, there ? &to->value : nullptr); });
            case 16:
                return act([=, kept = answers] { CALL(aclrtGetCurrentContext, there ? &to->context : nullptr); });
            default: {
                const auto setting = static_cast<moe_aclnn_option>(static_cast<int>(random_.below(7)) - 1);
                const auto rule = static_cast<uint32_t>(random_.below(45));
                switch (turn(&next_look_, 6)) {
                    case 0:
                        return act([=] { LOOK(moe_aclnn_get_mode, ); });
                    case 1:
                        return act([=] { LOOK(moe_aclnn_get_option, setting); });
                    case 2:
                        return act([=] {
                            const char* const name = LOOK(moe_aclnn_rule, rule);
                            LOOK(moe_aclnn_count_findings, name);
                        });
                    case 3:
                        return act([=] { LOOK(moe_aclnn_clear_findings, ); });
                    case 4:
                        return act([=] { LOOK(moe_aclnn_set_callback, count_finding, nullptr); });
                    default:
                        return act([=] { CALL(moe_aclnn_set_findings_file, there ? nullptr : "/"); });
                }
            }
        }
    }

    void plugin_call() {
        const uint64_t number = random_.next();
        const bool flag = random_.chance(50);
        void* const address = any_address();
        const auto size = result<uint64_t>();
        char* const key = host_;
        switch (random_.below(12)) {
            case 0:
                return act([=] { CALL(InitHugeMemThreadLocal, address, flag); });
            case 1:
                return act([=] { LOOK(UnInitHugeMemThreadLocal, address, flag); });
            case 2:
                return act([=] { LOOK(ReleaseHugeMem, address, flag); });
            case 3:
                return act([=] { LOOK(PTAGetExecCache, number, size.get()); });
            case 4:
                return act([=] { LOOK(PTAFindExecCache, reinterpret_cast<uint8_t*>(key), 16, size.get()); });
            case 5:
                return act([=] { LOOK(InitPTACacheThreadLocal, ); });
            case 6:
                return act([=] { LOOK(UnInitPTACacheThreadLocal, ); });
            case 7:
                return act([=] { LOOK(SetPTAHashKey, number); });
            case 8:
                return act([=] { LOOK(SetPTACacheHashKey, reinterpret_cast<uint8_t*>(key), 16); });
            case 9:
                return act([=] { LOOK(CanUsePTACache, flag ? "aclnnFFN" : nullptr); });
            case 10:
                return act([=] { LOOK(AddTensorAddrToCachedList, address); });
            default:
                return act([=] { LOOK(ResetCacheThreadLocal, ); });
        }
    }

    // --- Tensors and arrays -----------------------------------------------------------------------------------------

    // What aclCreateTensor is told.
    struct Telling {
        std::array<int64_t, 32> dims{}, strides{}, storage{};
        uint64_t rank = 0, storage_rank = 0;
        bool has_dims = true, has_strides = false, has_storage = true;
        aclDataType dtype = ACL_FLOAT;
        aclFormat format = ACL_FORMAT_ND;
        int64_t offset = 0;
        void* data = nullptr;
    };

    static Telling tell(const Spec& spec, void* data) {
        Telling telling;
        telling.rank = spec.shape.size();
        telling.storage_rank = spec.storage().size();
        std::copy(spec.shape.begin(), spec.shape.end(), telling.dims.begin());
        std::copy(spec.storage().begin(), spec.storage().end(), telling.storage.begin());
        int64_t stride = 1;
        for (size_t d = spec.shape.size(); d-- > 0; stride *= spec.shape[d]) telling.strides[d] = stride;
        telling.dtype = spec.dtype;
        if (!spec.tiles.empty()) telling.format = ACL_FORMAT_FRACTAL_NZ;
        telling.data = data;
        return telling;
    }

    // As a plugin tells its tensors: the same, in other words.
    static void flatten(Telling* telling) {
        if (telling->format != ACL_FORMAT_ND) return;
        int64_t count = 1;
        for (uint64_t d = 0; d < telling->rank; ++d) count *= telling->dims[d];
        telling->storage[0] = count;
        telling->storage_rank = 1;
        telling->has_strides = true;
        if (telling->rank == 3) telling->format = ACL_FORMAT_NCL;
        if (telling->rank == 4) telling->format = ACL_FORMAT_NCHW;
    }

    void spoil(Telling* telling) {
        const size_t dim = random_.below(std::max<uint64_t>(1, telling->rank));
        switch (random_.below(12)) {
            case 0:
                telling->dims[dim] = odd_number();
                break;
            case 1:
                telling->dtype = static_cast<aclDataType>(odd_enum());
                break;
            case 2:
                telling->format = static_cast<aclFormat>(odd_enum());
                break;
            case 3:
                telling->offset = odd_number();
                break;
            case 4:
            case 5:
                telling->has_strides = true;
                telling->strides[dim] = odd_number();
                break;
            case 6:
                telling->data = any_address();
                break;
            case 7:
                telling->rank = random_.one_of<uint64_t>({0, 1, 5, 9, 25, 26, uint64_t{1} << 60});
                break;
            case 8:
                telling->storage[random_.below(std::max<uint64_t>(1, telling->storage_rank))] = odd_number();
                break;
            case 9:
                telling->storage_rank = random_.one_of<uint64_t>({0, 1, 5, 9, 25, 26, uint64_t{1} << 60});
                break;
            case 10:
                (random_.chance(50) ? telling->has_dims : telling->has_storage) = false;
                break;
            default:
                // Every second element: a layout that is allowed, if the memory is large enough.
                telling->has_strides = true;
                for (uint64_t d = 0; d < std::min<uint64_t>(8, telling->rank); ++d) telling->strides[d] *= 2;
        }
    }

    Telling some_telling() {
        const Recipe& recipe = recipes_[random_.below(recipes_.size())];
        Telling telling = tell(recipe.operands[random_.below(recipe.operands.size())], pick(memory));
        if (random_.chance(20)) flatten(&telling);
        if (random_.chance(50)) spoil(&telling);
        return telling;
    }

    static aclTensor* create(const Telling& of) {
        return CALL(aclCreateTensor, of.has_dims ? of.dims.data() : nullptr, of.rank, of.dtype,
                    of.has_strides ? of.strides.data() : nullptr, of.offset, of.format,
                    of.has_storage ? of.storage.data() : nullptr, of.storage_rank, of.data);
    }

    void make_tensor(Slot* slot, const Telling& telling) {
        aclTensor* const old = static_cast<aclTensor*>(slot->handle);
        bury(tensor, slot);
        const auto made = result<aclTensor*>();
        act(
            [=] {
                if (old != nullptr) CALL(aclDestroyTensor, old);
                *made = create(telling);
            },
            [=] { fill(slot, *made); });
    }

    void tensor_call() {
        const auto answers = result<Answers>();
        Answers* const to = answers.get();
        const bool there = !random_.chance(4);
        aclTensor* const of = pick<aclTensor>(tensor);
        switch (random_.below(12)) {
            case 0:
                return make_tensor(slots_[tensor][random_.below(16)].get(), some_telling());
            case 1: {
                Slot* slot;
                aclTensor* const handle = random_.chance(25) ? pick<aclTensor>(tensor, &slot)
                                                             : (slot = nullptr, static_cast<aclTensor*>(unfit(tensor)));
                bury(tensor, slot);
                return act([=] { CALL(aclDestroyTensor, handle); });
            }
            case 2: {
                // Of the free ones: an operand would be something else from now on.
                aclTensor* const handle = random_.chance(80)
                                              ? static_cast<aclTensor*>(slots_[tensor][random_.below(16)]->handle)
                                              : static_cast<aclTensor*>(unfit(tensor));
                const Telling telling = some_telling();
                return act([=] {
                    CALL(aclInitTensor, handle, telling.has_dims ? telling.dims.data() : nullptr, telling.rank,
                         telling.dtype, telling.has_strides ? telling.strides.data() : nullptr, telling.offset,
                         telling.format, telling.has_storage ? telling.storage.data() : nullptr, telling.storage_rank,
                         telling.data);
                });
            }
            case 3:
            case 4: {
                const size_t which = random_.below(3);
                return act([=] {
                    int64_t* values = nullptr;
                    uint64_t count = 0;
                    uint64_t* const number = there ? &count : nullptr;
                    if (which == 0)
                        CALL(aclGetViewShape, of, &values, number);
                    else if (which == 1)
                        CALL(aclGetStorageShape, of, &values, number);
                    else
                        CALL(aclGetViewStrides, of, &values, number);
                    delete[] values;
                });
            }
            case 5:
                return act([=, kept = answers] { CALL(aclGetViewOffset, of, there ? &to->value : nullptr); });
            case 6:
                return act([=] {
                    aclFormat format;
                    CALL(aclGetFormat, of, there ? &format : nullptr);
                });
            case 7:
                return act([=] {
                    aclDataType dtype;
                    CALL(aclGetDataType, of, there ? &dtype : nullptr);
                });
            case 8: {
                // Not of an operand that is to stay: seldom.
                if (random_.chance(70)) return array_call();
                void* const address = any_address();
                return act([=] { CALL(aclSetRawTensorAddr, of, address); });
            }
            case 9:
                return act([=] {
                    void* address = nullptr;
                    CALL(aclGetRawTensorAddr, of, there ? &address : nullptr);
                });
            case 10: {
                const int format =
                    random_.chance(80) ? random_.one_of<int>({ACL_FORMAT_FRACTAL_NZ, ACL_FORMAT_ND}) : odd_enum();
                const int additional = random_.chance(80) ? -1 : odd_enum();
                return act([=] {
                    int64_t* dims = nullptr;
                    uint64_t rank = 0;
                    int actual = 0;
                    CALL(aclnnNpuFormatCastCalculateSizeAndFormat, of, format, additional, &dims, &rank,
                         there ? &actual : nullptr);
                    delete[] dims;
                });
            }
            default: {
                const aclIntArray* const shape = pick<aclIntArray>(ints);
                const auto dtype = random_.chance(80) ? ACL_INT8 : static_cast<aclDataType>(odd_enum());
                if (random_.chance(50))
                    return act([=, kept = answers] {
                        CALL(aclnnCalculateMatmulWeightSize, shape, there ? &to->count : nullptr);
                    });
                return act([=, kept = answers] {
                    CALL(aclnnCalculateMatmulWeightSizeV2, shape, dtype, there ? &to->count : nullptr);
                });
            }
        }
    }

    template <class Handle, class Make, class Destroy>
    void replace(Kind kind, Make make, Destroy destroy) {
        const auto [slot, old] = vacate(kind);
        const auto made = result<Handle*>();
        act(
            [=, old = old] {
                if (old != nullptr) destroy(static_cast<Handle*>(old));
                *made = make();
            },
            [=, slot = slot] { fill(slot, *made); });
    }

    template <class Handle, class Destroy>
    void destroy_one(Kind kind, Destroy destroy) {
        Slot* slot;
        Handle* const handle = pick<Handle>(kind, &slot);
        bury(kind, slot);
        act([=] { destroy(handle); });
    }

    static void destroy_ints(const aclIntArray* array) { CALL(aclDestroyIntArray, array); }
    static void destroy_floats(const aclFloatArray* array) { CALL(aclDestroyFloatArray, array); }
    static void destroy_bools(const aclBoolArray* array) { CALL(aclDestroyBoolArray, array); }
    static void destroy_scalar(const aclScalar* value) { CALL(aclDestroyScalar, value); }
    static void destroy_tensors(const aclTensorList* list) { CALL(aclDestroyTensorList, list); }
    static void destroy_scalars(const aclScalarList* list) { CALL(aclDestroyScalarList, list); }

    void make_ints(Slot* slot, const std::vector<int64_t>& values) {
        const auto made = result<aclIntArray*>();
        aclIntArray* const old = static_cast<aclIntArray*>(slot->handle);
        bury(ints, slot);
        act(
            [=] {
                if (old != nullptr) destroy_ints(old);
                *made = CALL(aclCreateIntArray, values.data(), values.size());
            },
            [=] { fill(slot, *made); });
    }

    void array_call() {
        const bool there = !random_.chance(5), sized = random_.chance(50);
        const uint64_t size = random_.chance(95) ? random_.below(5) : ~uint64_t{0} - random_.below(4);
        const auto answers = result<uint64_t>();
        uint64_t* const count = place(answers.get());
        switch (random_.below(12)) {
            case 0: {
                std::array<int64_t, 4> values;
                for (int64_t& value : values)
                    value = random_.chance(80) ? static_cast<int64_t>(random_.below(33)) : odd_number();
                return replace<aclIntArray>(
                    ints, [=] { return CALL(aclCreateIntArray, there ? values.data() : nullptr, size); }, destroy_ints);
            }
            case 1:
                return replace<aclFloatArray>(
                    floats,
                    [=] {
                        const float values[4] = {1, 2, 3, 4};
                        return CALL(aclCreateFloatArray, there ? values : nullptr, size);
                    },
                    destroy_floats);
            case 2:
                return replace<aclBoolArray>(
                    bools,
                    [=] {
                        const bool values[4] = {true, false, true, false};
                        return CALL(aclCreateBoolArray, there ? values : nullptr, size);
                    },
                    destroy_bools);
            case 3: {
                const auto dtype = static_cast<aclDataType>(odd_enum());
                return replace<aclScalar>(
                    scalar,
                    [=] {
                        char value[16] = {};
                        return CALL(aclCreateScalar, there ? value : nullptr, dtype);
                    },
                    destroy_scalar);
            }
            case 4: {
                if (random_.chance(75)) return;  // of operands too
                return destroy_one<aclIntArray>(ints, destroy_ints);
            }
            case 5:
                if (sized) return destroy_one<aclFloatArray>(floats, destroy_floats);
                return destroy_one<aclBoolArray>(bools, destroy_bools);
            case 6:
                if (sized) return destroy_one<aclScalar>(scalar, destroy_scalar);
                return destroy_one<aclScalarList>(scalars, destroy_scalars);
            case 7:
                return destroy_one<aclTensorList>(tensors, destroy_tensors);
            case 8: {
                const auto* const array = pick<aclIntArray>(ints);
                return act([=, kept = answers] { CALL(aclGetIntArraySize, array, count); });
            }
            case 9: {
                const auto* const first = pick<aclFloatArray>(floats);
                const auto* const second = pick<aclBoolArray>(bools);
                if (sized) return act([=, kept = answers] { CALL(aclGetFloatArraySize, first, count); });
                return act([=, kept = answers] { CALL(aclGetBoolArraySize, second, count); });
            }
            case 10: {
                const auto* const list = pick<aclTensorList>(tensors);
                return act([=, kept = answers] { CALL(aclGetTensorListSize, list, count); });
            }
            default: {
                const auto* const list = pick<aclScalarList>(scalars);
                return act([=, kept = answers] { CALL(aclGetScalarListSize, list, count); });
            }
        }
    }

    // Lists own their elements: mostly new ones.
    void make_list() {
        const bool odd = random_.chance(5);
        const uint64_t size = random_.chance(95) ? random_.below(3) : ~uint64_t{0};
        if (random_.chance(50)) {
            const Telling first = some_telling(), second = some_telling();
            const auto* const other = odd ? pick<aclTensor>(tensor) : nullptr;
            replace<aclTensorList>(
                tensors,
                [=] {
                    const aclTensor* elements[2] = {create(first), odd ? other : create(second)};
                    aclTensorList* const list = CALL(aclCreateTensorList, elements, size);
                    // What the list does not own is its maker's still.
                    const uint64_t owned = list == nullptr ? 0 : size;
                    for (uint64_t i = owned; i < (odd ? 1 : 2); ++i) CALL(aclDestroyTensor, elements[i]);
                    return list;
                },
                destroy_tensors);
        } else {
            const auto* const other = pick<aclScalar>(scalar);
            replace<aclScalarList>(
                scalars,
                [=] {
                    float value = 1;
                    const aclScalar* elements[2] = {CALL(aclCreateScalar, &value, ACL_FLOAT), other};
                    const uint64_t taken = odd ? 2 : std::min<uint64_t>(1, size);
                    aclScalarList* const list = CALL(aclCreateScalarList, elements, taken);
                    if (list == nullptr || taken == 0) CALL(aclDestroyScalar, elements[0]);
                    return list;
                },
                destroy_scalars);
        }
    }

    // --- Executors --------------------------------------------------------------------------------------------------

    void executor_call() {
        auto* const handle = pick<aclOpExecutor>(executor);
        const size_t index = random_.chance(90) ? random_.below(8) : static_cast<size_t>(odd_number());
        const size_t relative = random_.chance(80) ? random_.below(2) : static_cast<size_t>(odd_number());
        auto* const of = pick<aclTensor>(tensor);
        auto* const list = pick<aclTensorList>(tensors);
        void* const address = any_address();
        switch (random_.below(18)) {
            case 0:
            case 1:
            case 2: {
                Slot* slot;
                auto* const gone = pick<aclOpExecutor>(executor, &slot);
                bury(executor, slot);
                return act([=] { CALL(aclDestroyAclOpExecutor, gone); });
            }
            case 3:
                return act([=] { CALL(aclSetInputTensorAddr, handle, index, of, address); });
            case 4:
                return act([=] { CALL(aclSetOutputTensorAddr, handle, index, of, address); });
            case 5:
                return act([=] { CALL(aclSetTensorAddr, handle, index, of, address); });
            case 6:
                return act([=] { CALL(AclSetInputTensorAddr, handle, index, of, address); });
            case 7:
                return act([=] { CALL(AclSetOutputTensorAddr, handle, index, of, address); });
            case 8:
                return act([=] { CALL(AclSetTensorAddr, handle, index, of, address); });
            case 9:
                return act([=] { CALL(aclSetDynamicInputTensorAddr, handle, index, relative, list, address); });
            case 10:
                return act([=] { CALL(aclSetDynamicOutputTensorAddr, handle, index, relative, list, address); });
            case 11:
                return act([=] { CALL(aclSetDynamicTensorAddr, handle, index, relative, list, address); });
            case 12:
                return act([=] { CALL(AclSetDynamicInputTensorAddr, handle, index, relative, list, address); });
            case 13:
                return act([=] { CALL(AclSetDynamicOutputTensorAddr, handle, index, relative, list, address); });
            case 14:
                return act([=] { CALL(AclSetDynamicTensorAddr, handle, index, relative, list, address); });
            case 15: {
                aclTensor* elements[2] = {of, pick<aclTensor>(tensor)};
                const bool there = !random_.chance(20);
                void* const queue = pick(stream);
                return act(
                    [=]() mutable { CALL(aclDumpOpTensors, there ? "FFN" : nullptr, "ffn", elements, 1, 1, queue); });
            }
            default:
                return act([=] { CALL(aclSetAclOpExecutorRepeatable, handle); });
        }
    }

    void upload(Slot* slot, const std::vector<char>& contents, bool wild) {
        void* const to = slot->handle;
        const size_t size = contents.size();
        const auto bytes = std::make_shared<std::vector<char>>(contents);
        if (wild)  // indices and counts lead anywhere
            for (char& byte : *bytes) byte = static_cast<char>(random_.next());
        act([=] { CALL(aclrtMemcpy, to, size, bytes->data(), size, ACL_MEMCPY_HOST_TO_DEVICE); });
    }

    // Makes, or repairs, the tensors of a call; `right`: all of them, and as they should be.
    void prepare(Instance& instance, bool right = false) {
        const bool anew = right || instance.uses_left == 0;
        instance.uses_left = anew ? 10 + random_.below(20) : instance.uses_left - 1;
        for (size_t i = 0; i < instance.operands.size(); ++i) {
            Operand& operand = instance.operands[i];
            const Spec& spec = instance.recipe->operands[i];
            const bool missing = !operand.memory->live;
            if (missing) allocate(operand.memory, nullptr, spec.size(), random_.below(8));
            const bool refresh = right || random_.chance(anew ? 60 : operand.dirty ? 50 : 8);
            const bool skip = !right && random_.chance(4), wild = !right && random_.chance(2);
            if (!spec.contents.empty() && (missing || refresh)) {
                operand.dirty = skip || wild;
                if (!skip) upload(operand.memory, spec.contents, wild);
            }
            if (!anew && !missing && operand.tensor->live && !operand.spoiled) continue;
            Telling telling = tell(spec, operand.memory->handle);
            if (random_.chance(15)) flatten(&telling);
            operand.spoiled = !right && random_.chance(2);
            if (right) {
                make_tensor(operand.tensor, telling);
                continue;
            }
            if (operand.spoiled) spoil(&telling);
            if (random_.chance(2)) {  // over a neighbour
                operand.spoiled = true;
                telling.data = instance.operands[random_.below(instance.operands.size())].memory->handle;
            }
            if (spec.contents.empty() && random_.chance(3)) {  // an output with gaps
                operand.spoiled = telling.has_strides = true;
                for (uint64_t d = 0; d < std::min<uint64_t>(8, telling.rank); ++d) telling.strides[d] *= 2;
            }
            make_tensor(operand.tensor, telling);
        }
        for (size_t a = 0; a < instance.arrays.size(); ++a)
            if (instance.arrays[a] != nullptr && (anew || !instance.arrays[a]->live))
                make_ints(instance.arrays[a], instance.recipe->arguments[a].array);
    }

    // Prepares a call but for one tensor, which is told in another way.
    template <class Which, class Change>
    void retell(Instance& instance, Which which, Change change) {
        prepare(instance);
        for (size_t i = 0; i < instance.operands.size(); ++i) {
            const Spec& spec = instance.recipe->operands[i];
            Operand& operand = instance.operands[i];
            if (!which(spec)) continue;
            Telling telling = tell(spec, operand.memory->handle);
            change(&telling);
            operand.spoiled = true;
            return make_tensor(operand.tensor, telling);
        }
    }

    // Phase 1 with a null for the first argument of a kind.
    void plan_without(Instance& instance, Argument::Kind kind) {
        prepare(instance);
        std::vector<Value> values = values_of(instance);
        const std::vector<Argument>& arguments = instance.recipe->arguments;
        for (size_t a = 0; a < arguments.size(); ++a) {
            if (arguments[a].kind != kind) continue;
            values[a].handle = nullptr;
            break;
        }
        const Operator& op = *instance.recipe->op;
        act([=, &op] {
            uint64_t size = 0;
            aclOpExecutor* made = nullptr;
            call(op.first, [&] { return op.plan(values.data(), &size, &made); });
        });
    }

    static std::vector<Value> values_of(const Instance& instance) {
        const Recipe& recipe = *instance.recipe;
        std::vector<Value> values;
        for (size_t a = 0; a < recipe.arguments.size(); ++a) {
            const Argument& argument = recipe.arguments[a];
            Value value;
            if (argument.kind == Argument::Kind::tensor && argument.operand >= 0)
                value.handle = instance.operands[static_cast<size_t>(argument.operand)].tensor->handle;
            if (argument.kind == Argument::Kind::array) value.handle = instance.arrays[a]->handle;
            if (argument.kind == Argument::Kind::text) value.handle = argument.text;
            value.integer = argument.integer;
            value.real = argument.real;
            values.push_back(value);
        }
        return values;
    }

    // Phase 1 of a call that may have anything wrong with it.
    Slot* plan(Instance& instance, bool odd = true) {
        const Recipe& recipe = *instance.recipe;
        std::vector<Value> values = values_of(instance);
        if (odd) {
            const size_t at = random_.below(values.size());
            Value& value = values[at];
            switch (recipe.arguments[at].kind) {
                case Argument::Kind::tensor:
                    value.handle = random_.chance(50) ? unfit(tensor) : pick(tensor);
                    break;
                case Argument::Kind::array:
                    value.handle = random_.chance(50) ? unfit(ints) : pick(ints);
                    break;
                case Argument::Kind::text:
                    value.handle = random_.one_of<const char*>({nullptr, "", "tanh", "swiglu", "GELU"});
                    break;
                case Argument::Kind::number:
                    value.integer = odd_number();
                    value.real = random_.one_of<double>({0, -1, 1e300, __builtin_nan(""), __builtin_inf()});
            }
        }
        const auto [slot, old] = vacate(executor);
        const Operator& op = *recipe.op;
        struct Planned {
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
        };
        const auto planned = result<Planned>();
        uint64_t* const size = odd && random_.chance(4) ? nullptr : &planned->size;
        aclOpExecutor** const out = odd && random_.chance(4) ? nullptr : &planned->executor;
        // The mode is the driver's to know: it sets it.
        if (recipe.changes_always || (recipe.changes_in_real && mode_ == MOE_ACLNN_REAL))
            for (Operand& operand : instance.operands) operand.spoiled = random_.chance(80);
        act(
            [=, &op, old = old] {
                if (old != nullptr) CALL(aclDestroyAclOpExecutor, static_cast<aclOpExecutor*>(old));
                call(op.first, [&] { return op.plan(values.data(), size, out); });
            },
            [=, slot = slot, number = static_cast<int>(instance.number)] {
                fill(slot, planned->executor, planned->size);
                slot->user = number;
            });
        return slot;
    }

    // Phase 2; not `right`: with anything wrong about it.
    void launch(Slot* slot, size_t home, bool right, bool repeatable = false) {
        const Operator* op = slot->user < 0 ? &operators[random_.below(std::size(operators))]
                                            : recipes_[static_cast<size_t>(slot->user)].op;
        void* handle = slot->handle;
        void* queue = slots_[stream][home]->handle;
        Slot* const scratch = workspaces_[home % workspaces_.size()];
        uint64_t size = slot->size;
        void* workspace = size > 0 ? scratch->handle : nullptr;
        if (!right) {
            switch (random_.below(9)) {
                case 0:
                    op = &operators[random_.below(std::size(operators))];
                    break;
                case 1:
                    handle = unfit(executor);
                    break;
                case 2:
                    queue = random_.chance(40) ? nullptr : pick(stream);
                    break;
                case 3:
                    workspace = nullptr;
                    size += random_.below(2);
                    break;
                case 4:
                    workspace = any_address();
                    size += 64;
                    break;
                case 5:
                    size = random_.chance(50) ? size / 2 : static_cast<uint64_t>(odd_number());
                    break;
                case 6:
                    workspace = shifted(scratch->handle, workspace_bytes - random_.below(600));
                    size += 32;
                    break;
                default:
                    break;
            }
        }
        if (right && !repeatable)
            bury(executor, slot);  // else it may be alive, and is destroyed when its slot is needed
        act([=] {
            const auto status =
                call(op->second, [&] { return op->run(workspace, size, static_cast<aclOpExecutor*>(handle), queue); });
            if (status == 0 && mistakes == 0) ++tally().executions[static_cast<int>(op->second)];
        });
    }

    // A call with nothing wrong about it, so that every operator has enough of them.
    void run_rightly() {
        const Operator* op;
        do op = &operators[turn(&next_right_, std::size(operators))];
        while (!has_kernel(*op));
        Instance& instance = instance_of(op, true);
        thread_ = 0;
        if (astray_[0]) come_home();
        synchronise_homes();
        act([=] { CALL(aclrtSynchronizeDevice, ); });
        prepare(instance, true);
        Slot* const slot = plan(instance, false);
        auto* const handle = static_cast<aclOpExecutor*>(slot->handle);
        act([=] { CALL(aclSetAclOpExecutorRepeatable, handle); });
        for (size_t times = 8; times > 0; --times) launch(slot, instance.stream, true, true);
    }

    void run_operator() {
        if (random_.chance(20)) return run_rightly();
        // Operators evenly, whatever number of recipes they have; those that never run seldom.
        const Operator* op;
        do op = &operators[turn(&next_operator_, std::size(operators))];
        while (!has_kernel(*op) && random_.chance(80));
        Instance& instance = instance_of(op);
        prepare(instance);
        Slot* const slot = plan(instance, random_.chance(12));
        if (random_.chance(10)) return;  // later, or never
        const bool repeatable = random_.chance(50);
        if (repeatable) {
            auto* const handle = static_cast<aclOpExecutor*>(slot->handle);
            act([=] { CALL(aclSetAclOpExecutorRepeatable, handle); });
        }
        if (random_.chance(2)) {
            const Operand& operand = instance.operands[random_.below(instance.operands.size())];
            auto* const handle = static_cast<aclTensor*>(operand.tensor->handle);
            void* const address = operand.memory->handle;
            act([=] { CALL(aclSetRawTensorAddr, handle, address); });
        }
        // Phase 2 may be on another thread, when that has a context.
        const size_t other = random_.below(thread_count);
        if (random_.chance(30) && !astray_[other]) thread_ = other;
        for (size_t times = repeatable ? 2 + random_.below(12) : 1; times > 0; --times)
            launch(slot, random_.chance(94) ? instance.stream : random_.below(home_streams), random_.chance(92),
                   repeatable);
    }

    // --- Epochs -----------------------------------------------------------------------------------------------------

    size_t epoch_moves() { return 400 + random_.below(600); }

    void set_mode(int mode) {
        if (mode >= 0 && mode < 3) mode_ = mode;
        act([=] { CALL(moe_aclnn_set_mode, static_cast<moe_aclnn_mode>(mode)); });
    }

    void set_option(moe_aclnn_option option, bool value) {
        act([=] { CALL(moe_aclnn_set_option, option, value); });
    }

    void change_settings() {
        switch (turn(&next_setting_, 8)) {
            case 0:
                set_option(MOE_ACLNN_OPTION_DEFERRED, random_.chance(50));
                break;
            case 1:
                set_option(MOE_ACLNN_OPTION_WORKSPACE, random_.chance(70));
                break;
            case 2:
                set_option(MOE_ACLNN_OPTION_POISON, random_.chance(30));
                break;
            case 3:
                set_option(MOE_ACLNN_OPTION_BACKTRACE, random_.chance(5));
                break;
            case 4: {
                const auto name = random_.one_of<const char*>({nullptr, "Ascend910B1", "Ascend910_93", "Ascend1", ""});
                return act([=] { CALL(moe_aclnn_set_soc, name); });
            }
            case 5: {
                const auto option = static_cast<moe_aclnn_option>(5 + random_.below(3));
                const auto value = static_cast<int32_t>(random_.below(4));
                return act([=] { CALL(moe_aclnn_set_option, option, value); });
            }
            default:
                set_mode(static_cast<int>(random_.below(4)));
        }
    }

    // Takes the ground away from under everybody, and gives it back after a while.
    void disturb() {
        if (random_.chance(50)) {
            const size_t which = turn(&next_end_, 3);
            act([=] {
                if (which == 0)
                    CALL(aclFinalize, );
                else if (which == 1)
                    CALL(aclnnFinalize, );
                else {
                    uint64_t left = 0;
                    CALL(aclFinalizeReference, &left);
                }
            });
            for (size_t i = 0; i < 5; ++i) one_call();
            return act([=] {
                if (which == 1)
                    CALL(aclnnInit, nullptr);
                else
                    CALL(aclInit, nullptr);
            });
        }
        if (random_.chance(85)) return;  // expensive: everything has to be made anew
        act([=] { CALL(aclrtResetDeviceForce, 0); });
        for (size_t i = 0; i < 30; ++i) one_call();
        forget_device();
        begin_epoch();
    }

    void begin_epoch() {
        bursting_ = false;
        thread_ = 0;
        act([=] { CALL(aclInit, nullptr); });
        set_mode(static_cast<int>(random_.below(3)));
        set_option(MOE_ACLNN_OPTION_DEFERRED, random_.chance(33));
        set_option(MOE_ACLNN_OPTION_WORKSPACE, random_.chance(50));
        set_option(MOE_ACLNN_OPTION_POISON, random_.chance(25));
        protected_ = random_.chance(15);
        set_option(MOE_ACLNN_OPTION_PROTECT, protected_);
        for (thread_ = 0; thread_ < thread_count; ++thread_) {
            astray_[thread_] = thread_ + 1 == thread_count && random_.chance(50);  // one without a device
            if (!astray_[thread_]) act([=] { CALL(aclrtSetDevice, 0); });
        }
        thread_ = 0;
        const auto current = result<aclrtContext>();
        act([=] { CALL(aclrtGetCurrentContext, current.get()); }, [=] { home_ = *current; });
        for (size_t i = 0; i < home_streams; ++i) {
            Slot* const slot = slots_[stream][i].get();
            void* const old = slot->handle;
            bury(stream, slot);
            make_stream(slot, old, 0, true);
        }
        for (Slot* const slot : workspaces_)
            if (!slot->live) allocate(slot, nullptr, workspace_bytes, 0);
        for (Instance& instance : instances_) instance.uses_left = 0;
    }

    // The memory, streams and contexts of the device are gone.
    void forget_device() {
        for (const Kind kind : {memory, stream, context})
            for (const auto& slot : slots_[kind]) bury(kind, slot.get());
    }

    void destroy_everything() {
        const auto destroy = [&](Kind kind, auto release) {
            for (const auto& slot : slots_[kind]) {
                void* const handle = slot->handle;
                bury(kind, slot.get());
                if (handle != nullptr) act([=] { release(handle); });
            }
        };
        destroy(executor, [](void* handle) { CALL(aclDestroyAclOpExecutor, static_cast<aclOpExecutor*>(handle)); });
        destroy(tensors, [](void* handle) { destroy_tensors(static_cast<aclTensorList*>(handle)); });
        destroy(scalars, [](void* handle) { destroy_scalars(static_cast<aclScalarList*>(handle)); });
        destroy(tensor, [](void* handle) { CALL(aclDestroyTensor, static_cast<aclTensor*>(handle)); });
        destroy(scalar, [](void* handle) { destroy_scalar(static_cast<aclScalar*>(handle)); });
        destroy(ints, [](void* handle) { destroy_ints(static_cast<aclIntArray*>(handle)); });
        destroy(floats, [](void* handle) { destroy_floats(static_cast<aclFloatArray*>(handle)); });
        destroy(bools, [](void* handle) { destroy_bools(static_cast<aclBoolArray*>(handle)); });
        destroy(event, [](void* handle) { CALL(aclrtDestroyEvent, handle); });
        destroy(pinned, [](void* handle) { CALL(aclrtFreeHost, handle); });
    }

    void end_epoch() {
        thread_ = 0;
        const bool leaks = random_.chance(50);
        act([=] { CALL(aclrtSynchronizeDevice, ); });
        if (leaks) act([=] { CALL(aclFinalize, ); });
        destroy_everything();
        for (const int32_t device : {0, 1}) act([=] { CALL(aclrtResetDeviceForce, device); });
        if (!leaks) act([=] { CALL(aclFinalize, ); });
        forget_device();
    }

    static void* shifted(void* address, size_t bytes) {
        return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(address) + bytes);
    }

    struct Waiting {
        size_t thread;
        Job job, settle;
    };

    Random random_;
    const uint64_t wanted_;
    const std::vector<Recipe> recipes_;
    std::vector<std::unique_ptr<Slot>> slots_[kind_count];
    std::vector<void*> dead_[kind_count];
    std::vector<Instance> instances_;
    std::vector<Slot*> workspaces_;
    std::vector<std::unique_ptr<Performer>> performers_;
    std::vector<Waiting> waiting_;
    size_t thread_ = 0;
    size_t next_operator_ = 0, next_right_ = 0, next_aim_ = 0, next_walk_ = 0, next_look_ = 0, next_end_ = 0,
           next_setting_ = 0;
    bool bursting_ = false, protected_ = false;
    std::array<bool, thread_count> astray_{};
    int mode_ = MOE_ACLNN_COMPAT;
    void* home_ = nullptr;
    char host_[host_bytes];
};

// --- The account ----------------------------------------------------------------------------------------------------

constexpr uint64_t full_run = 1000000, least_executions = 2000;
constexpr uint64_t calls_for_every_rule = 40000;

unsigned long long wide(uint64_t number) {
    return number;
}

// What came back, and whether enough of everything did.
bool account(uint64_t wanted) {
    Tally& of = tally();
    bool enough = true;
    const auto need = [&](bool met, const std::string& what) {
        if (!met) std::printf("MISSING: %s\n", what.c_str());
        enough = enough && met;
    };
    std::printf("\n%-56s %9s %9s\n", "function", "calls", "successes");
    for (int i = 0; i < function_count; ++i) {
        std::printf("%-56s %9llu %9llu\n", name_of(static_cast<Function>(i)), wide(of.calls[i]), wide(of.successes[i]));
        if (wanted >= calls_for_every_rule)
            need(of.calls[i] > 0, std::string("a call of ") + name_of(static_cast<Function>(i)));
    }
    std::printf("\nstatus    calls\n");
    for (const auto& [status, count] : of.statuses) std::printf("%6d %9llu\n", status, wide(count));
    std::printf("\n%-20s findings\n", "rule");
    for (uint32_t i = 0; const char* const name = moe_aclnn_rule(i); ++i) {
        std::printf("%-20s %9llu\n", name, wide(of.rules[name]));
        if (wanted >= calls_for_every_rule) need(of.rules[name] > 0, std::string("a finding of ") + name);
    }
    const uint64_t least = least_executions * wanted / full_run;
    std::printf("\n%-40s executions (at least %llu)\n", "operator", wide(least));
    for (const Operator& op : operators) {
        const uint64_t count = of.executions[static_cast<int>(op.second)];
        std::printf("%-40s %9llu\n", op.name, wide(count));
        need(has_kernel(op) ? count >= least : count == 0, std::string("the right number of executions of ") + op.name);
    }
    const double share =
        100.0 * static_cast<double>(of.succeeded) / static_cast<double>(std::max<uint64_t>(1, of.judged));
    std::printf("\ncalls %llu, of which %llu can fail; of these succeeded %llu, %.1f %%\n", wide(of.total),
                wide(of.judged), wide(of.succeeded), share);
    need(share >= 20, "a success of every fifth call");
    return enough;
}

// Ends the process when no call has been made for a while.
[[noreturn]] void watch() {
    constexpr int patience = 120;
    uint64_t before = 0;
    for (int quiet = 0;; ++quiet) {
        std::this_thread::sleep_for(std::chrono::seconds(1));
        const uint64_t now = tally().total;
        if (now != before) quiet = 0;
        before = now;
        if (quiet < patience) continue;
        std::fprintf(stderr, "hangs after call %llu, last one begun: %s\n", wide(now),
                     name_of(static_cast<Function>(tally().last.load())));
        std::abort();
    }
}

}  // namespace
}  // namespace fuzz

int main(int argc, char** argv) {
    uint64_t seed = 1, calls = fuzz::full_run;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--trace") {
            fuzz::tally().trace = true;
        } else if (i + 1 < argc && (option == "--seed" || option == "--calls")) {
            (option == "--seed" ? seed : calls) = std::strtoull(argv[++i], nullptr, 0);
        } else {
            std::fprintf(stderr, "usage: %s [--seed N] [--calls N] [--trace]\n", argv[0]);
            return 2;
        }
    }
    std::printf("seed %llu, calls %llu\n", fuzz::wide(seed), fuzz::wide(calls));
    std::fflush(stdout);
    std::thread(fuzz::watch).detach();
    std::make_unique<fuzz::Driver>(seed, calls)->run();
    const bool enough = fuzz::account(calls);
    std::printf("seed %llu: %s\n", fuzz::wide(seed), enough ? "passed" : "FAILED");
    return enough ? 0 : 1;
}
