// Streams: queues of tasks that a worker runs in order; and events, marks in a stream.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "aclnn/memory.h"
#include "aclnn/registry.h"

namespace moe::device {

class Stream;
class Context;

// A place in the queue of a stream: reached when everything up to it has run.
struct Mark {
    std::shared_ptr<Stream> stream;
    uint64_t position = 0;
};

struct Task {
    Origin origin;                      // the call that queued it
    std::vector<Mark> after;            // what has to run first, in other streams
    std::vector<AllocationPtr> memory;  // stays mapped until the task is done
    std::function<Status()> run;        // not 0: the error of the stream, whose text is last_refusal()
};

class Stream : public Object {
  public:
    static constexpr Kind object_kind = Kind::stream;

    explicit Stream(std::shared_ptr<Context> context);
    ~Stream() override;

    // Under the state lock, so that positions and clocks agree. Returns the position of the task.
    uint64_t submit(Task task);

    // --- Not under the state lock. ---

    enum class Wait { done, timed_out };
    // Until the position is reached; a deferred stream runs up to it here. -1 waits for ever.
    Wait wait(uint64_t position, int32_t timeout_ms = -1);
    // A query: has everything run? A deferred stream runs one task first.
    bool reached(uint64_t position);
    // Runs the rest, or drops it, and ends the worker. The stream takes no more tasks.
    void close(bool drop);

    uint64_t submitted() const;
    // Its work runs on the threads that wait for it.
    bool is_deferred() const { return deferred_; }

    // The first error since it was last asked for, and its text.
    Status take_error(std::string* message);

    const std::shared_ptr<Context> context;
    // What is known to come before the next task. Under the state lock.
    Clock known;

  private:
    void work();
    bool advance(uint64_t position);
    // Of the front task; behind all positions when there is none. Under `mutex_`.
    uint64_t next_position() const { return submitted_ - queue_.size() + 1; }
    void execute(Task& task);
    void finish(Task task, std::unique_lock<std::mutex>& lock, bool run);

    const bool deferred_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Task> queue_;
    uint64_t submitted_ = 0;
    uint64_t done_ = 0;
    bool busy_ = false;
    bool closing_ = false;
    Status error_ = 0;
    std::string message_;
    std::thread worker_;
};

// What an event was recorded with.
struct Recording {
    Mark mark;
    Clock known;
    std::chrono::steady_clock::time_point time;
};

class Event : public Object {
  public:
    static constexpr Kind object_kind = Kind::event;
    Event() : Object(object_kind) {}
    std::shared_ptr<Recording> recording;  // null before the first; under the state lock
};

// --- Under the state lock ---

// What the host has waited for.
const Clock& host_clock();
// The host knows that a stream has reached a position, and all that came before it.
void host_reached(const Stream& stream, uint64_t position, const Clock& known);
// Whether a stream still exists: work of others is done.
bool stream_lives(uint64_t number);
std::shared_ptr<Stream> live_stream(uint64_t number);

// --- Not under the state lock ---

// While it is held, no deferred stream runs anything on another thread. Not to be held while waiting for a worker.
std::unique_lock<std::recursive_mutex> deferred_turn();

// The stream of a handle for a call of this thread; null stands for the default stream of the current context. Refuses
// as the runtime does.
Status usable_stream(const void* handle, std::shared_ptr<Stream>* stream);

// Waits for a stream, as aclrtSynchronizeStream does.
Status synchronise(const std::shared_ptr<Stream>& stream, int32_t timeout_ms);

// Closes a stream and forgets it.
void retire_stream(const std::shared_ptr<Stream>& stream, bool drop);

}  // namespace moe::device
