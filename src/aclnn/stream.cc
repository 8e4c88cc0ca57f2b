#include "aclnn/stream.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>

#include "acl/acl.h"
#include "aclnn/context.h"
#include "aclnn/settings.h"
#include "aclnn/state.h"

namespace moe::device {
namespace {

// What a kernel fault looks like to the host.
constexpr Status kernel_fault = 507015;

struct Streams {
    Clock host;
    std::unordered_map<uint64_t, std::weak_ptr<Stream>> live;  // by number
};
// Never destroyed: workers may outlive static objects.
Streams& streams() {
    static Streams* const instance = new Streams;
    return *instance;
}

void merge(Clock* into, const Clock& from) {
    for (const auto& [stream, position] : from) {
        uint64_t& known = (*into)[stream];
        known = std::max(known, position);
    }
}

// Deferred streams run on the threads that wait, one task at a time.
std::recursive_mutex& deferred_mutex() {
    static std::recursive_mutex* const instance = new std::recursive_mutex;
    return *instance;
}

}  // namespace

std::mutex& state_mutex() {
    static std::mutex* const instance = new std::mutex;
    return *instance;
}

Stream::Stream(std::shared_ptr<Context> owner)
    : Object(object_kind), context(std::move(owner)), deferred_(deferred()) {}

Stream::~Stream() {
    close(true);
}

uint64_t Stream::submit(Task task) {
    merge(&known, streams().host);
    std::unique_lock<std::mutex> lock(mutex_);
    if (closing_) return submitted_;  // another thread destroys the stream: nobody would run the task
    // First, because it may fail.
    if (!deferred_ && !worker_.joinable()) worker_ = std::thread([this] { work(); });
    queue_.push_back(std::move(task));
    const uint64_t position = ++submitted_;
    known[number] = position;
    lock.unlock();
    if (!deferred_) changed_.notify_all();
    return position;
}

void Stream::execute(Task& task) {
    const CallScope scope(task.origin);
    for (const Mark& mark : task.after)
        if (mark.stream != nullptr) mark.stream->wait(mark.position);
    if (task.run == nullptr) return;
    Status status;
    try {
        status = task.run();
    } catch (const std::exception&) {  // only memory runs out
        status = refuse_exhausted(task.origin.api);
    }
    if (status == 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ != 0) return;
    error_ = status;
    message_ = last_refusal();
}

// Takes the front task out, runs it and counts it. The memory it held is given up before it counts as done.
void Stream::finish(Task task, std::unique_lock<std::mutex>& lock, bool run) {
    busy_ = true;
    lock.unlock();
    if (run) execute(task);
    task = Task{};
    lock.lock();
    busy_ = false;
    ++done_;
    // Without the lock, which those who wake take.
    lock.unlock();
    changed_.notify_all();
    lock.lock();
}

void Stream::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
        if (queue_.empty()) return;
        Task task = std::move(queue_.front());
        queue_.pop_front();
        finish(std::move(task), lock, true);
    }
}

// Runs one task of a deferred stream here, if the position needs it.
bool Stream::advance(uint64_t position) {
    std::vector<Mark> marks;
    uint64_t next;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        next = next_position();
        // What is left runs on another thread; and what lies behind the position may wait for whoever waits here.
        if (next > position) return false;
        marks = queue_.front().after;
    }
    // Without the turn: the worker of a stream that is waited for may need it for another deferred stream.
    for (const Mark& mark : marks)
        if (mark.stream != nullptr) mark.stream->wait(mark.position);
    const std::lock_guard<std::recursive_mutex> turn(deferred_mutex());
    std::unique_lock<std::mutex> lock(mutex_);
    if (next_position() != next) return true;  // another thread took that task: the next one has marks of its own
    Task task = std::move(queue_.front());
    queue_.pop_front();
    finish(std::move(task), lock, true);
    return true;
}

Stream::Wait Stream::wait(uint64_t position, int32_t timeout_ms) {
    if (deferred_)
        while (advance(position)) {
        }
    std::unique_lock<std::mutex> lock(mutex_);
    const auto reached = [&] { return done_ >= position; };
    if (timeout_ms < 0) {
        changed_.wait(lock, reached);
        return Wait::done;
    }
    return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), reached) ? Wait::done : Wait::timed_out;
}

bool Stream::reached(uint64_t position) {
    if (deferred_) advance(position);
    const std::lock_guard<std::mutex> lock(mutex_);
    return done_ >= position;
}

void Stream::close(bool drop) {
    std::deque<Task> dropped;
    {
        std::unique_lock<std::mutex> lock(mutex_);
        if (drop) {
            dropped.swap(queue_);
            // Tasks count as done in order: wait for the one that runs.
            changed_.wait(lock, [this] { return !busy_; });
            done_ += dropped.size();
            changed_.notify_all();
        }
    }
    if (!drop) wait(submitted());
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        changed_.notify_all();
    }
    if (worker_.joinable()) worker_.join();
    if (deferred_) wait(submitted());
}

uint64_t Stream::submitted() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return submitted_;
}

Status Stream::take_error(std::string* message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    *message = std::move(message_);
    message_.clear();
    return std::exchange(error_, 0);
}

std::unique_lock<std::recursive_mutex> deferred_turn() {
    return std::unique_lock<std::recursive_mutex>(deferred_mutex());
}

const Clock& host_clock() {
    return streams().host;
}

void host_reached(const Stream& stream, uint64_t position, const Clock& known) {
    for (const auto& [number, at] : known) {
        if (!stream_lives(number)) continue;
        uint64_t& reached = streams().host[number];
        reached = std::max(reached, number == stream.number ? std::min(at, position) : at);
    }
}

bool stream_lives(uint64_t number) {
    return streams().live.count(number) != 0;
}

std::shared_ptr<Stream> live_stream(uint64_t number) {
    const auto found = streams().live.find(number);
    return found == streams().live.end() ? nullptr : found->second.lock();
}

Status usable_stream(const void* handle, std::shared_ptr<Stream>* stream) {
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    if (handle == nullptr) {
        const std::lock_guard<std::mutex> lock(state_mutex());
        if (context->default_stream == nullptr) {
            context->default_stream = std::make_shared<Stream>(context);
            add_object(context->default_stream);
            streams().live[context->default_stream->number] = context->default_stream;
        }
        *stream = context->default_stream;
        return 0;
    }
    *stream = lookup<Stream>(handle);
    if (*stream == nullptr) {
        const Fate fate = fate_of(handle, Kind::stream);
        return refuse(107017, Rule::stream_handle, "stream", fate.text, "a stream that is alive",
                      {&fate.made, handle, fate.number});
    }
    if ((*stream)->context != context)
        return refuse(107003, Rule::stream_handle, "stream",
                      text("stream number %llu of another context", static_cast<unsigned long long>((*stream)->number)),
                      "a stream of the current context", (*stream)->about());
    return 0;
}

Status synchronise(const std::shared_ptr<Stream>& stream, int32_t timeout_ms) {
    uint64_t position;
    Clock known;
    {
        const std::lock_guard<std::mutex> lock(state_mutex());
        position = stream->submitted();
        known = stream->known;
    }
    if (stream->wait(position, timeout_ms) == Stream::Wait::timed_out)
        return refuse(507046, Rule::stream_handle, "timeout", text("work left after %d ms", timeout_ms), "more time",
                      stream->about());
    {
        const std::lock_guard<std::mutex> lock(state_mutex());
        host_reached(*stream, position, known);
    }
    std::string message;
    const Status status = stream->take_error(&message);
    if (status != 0) add_error_text(kernel_fault, message);
    return status == 0 ? 0 : kernel_fault;
}

void retire_stream(const std::shared_ptr<Stream>& stream, bool drop) {
    stream->close(drop);
    const std::lock_guard<std::mutex> lock(state_mutex());
    // Its work is over: what it knew, the host knows now.
    host_reached(*stream, stream->submitted(), stream->known);
    streams().live.erase(stream->number);
    streams().host.erase(stream->number);
}

namespace {

Status create_stream(aclrtStream* out) {
    if (out == nullptr) return refuse(100000, Rule::null_argument, "stream", "null", "a place for the stream");
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    auto stream = std::make_shared<Stream>(context);
    const std::lock_guard<std::mutex> lock(state_mutex());
    *out = add_object(stream);
    streams().live[stream->number] = stream;
    return 0;
}

Status destroy_stream(aclrtStream handle, bool drop) {
    if (handle == nullptr)
        return refuse(100000, Rule::stream_handle, "stream", "null", "a stream of aclrtCreateStream");
    std::shared_ptr<Stream> stream = lookup<Stream>(handle);
    if (stream == nullptr) {
        const Fate fate = fate_of(handle, Kind::stream);
        return refuse(107017, Rule::stream_handle, "stream", fate.text, "a stream that is alive",
                      {&fate.made, handle, fate.number});
    }
    {
        const std::lock_guard<std::mutex> lock(state_mutex());
        if (stream->context->default_stream == stream)
            return refuse(107003, Rule::stream_handle, "stream", "the default stream of a context",
                          "a stream of aclrtCreateStream", stream->about());
    }
    if (withdraw<Stream>(handle) == nullptr) return 0;  // another thread was faster
    retire_stream(stream, drop);
    return 0;
}

Status synchronise_handle(aclrtStream handle, int32_t timeout_ms) {
    if (timeout_ms < -1) return refuse(107000, Rule::argument, "timeout", text("%d", timeout_ms), "-1 or milliseconds");
    std::shared_ptr<Stream> stream;
    MOE_DEVICE_TRY(usable_stream(handle, &stream));
    return synchronise(stream, timeout_ms);
}

Status usable_event(aclrtEvent handle, const char* argument, std::shared_ptr<Event>* event) {
    if (handle == nullptr) return refuse(100000, Rule::null_argument, argument, "null", "an event");
    *event = lookup<Event>(handle);
    if (*event != nullptr) return 0;
    const Fate fate = fate_of(handle, Kind::event);
    return refuse(107017, Rule::stream_handle, argument, fate.text, "an event that is alive",
                  {&fate.made, handle, fate.number});
}

std::shared_ptr<Recording> recording_of(const Event& event) {
    const std::lock_guard<std::mutex> lock(state_mutex());
    return event.recording;
}

void host_waited(const Recording& recording) {
    const std::lock_guard<std::mutex> lock(state_mutex());
    host_reached(*recording.mark.stream, recording.mark.position, recording.known);
}

Status create_event(aclrtEvent* out, uint32_t flag) {
    if (out == nullptr) return refuse(100000, Rule::null_argument, "event", "null", "a place for the event");
    constexpr uint32_t flags =
        ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE | ACL_EVENT_EXTERNAL;
    if ((flag & ~flags) != 0) return refuse(107000, Rule::argument, "flag", text("0x%x", flag), "ACL_EVENT_... flags");
    std::shared_ptr<Context> context;
    MOE_DEVICE_TRY(need_context(&context));
    *out = add_object(std::make_shared<Event>());
    return 0;
}

}  // namespace
}  // namespace moe::device

using namespace moe::device;

aclError aclrtCreateStream(aclrtStream* stream) {
    return entry(MOE_HERE, [&] { return create_stream(stream); });
}

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t flag) {
    return entry(MOE_HERE, [&]() -> Status {
        if ((flag & ~(ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC)) != 0)
            return refuse(107000, Rule::argument, "flag", text("0x%x", flag), "ACL_STREAM_... flags");
        return create_stream(stream);
    });
}

aclError aclrtDestroyStream(aclrtStream stream) {
    return entry(MOE_HERE, [&] { return destroy_stream(stream, false); });
}

aclError aclrtDestroyStreamForce(aclrtStream stream) {
    return entry(MOE_HERE, [&] { return destroy_stream(stream, true); });
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
    return entry(MOE_HERE, [&] { return synchronise_handle(stream, -1); });
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
    return entry(MOE_HERE, [&] { return synchronise_handle(stream, timeout); });
}

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
    return entry(MOE_HERE, [&]() -> Status {
        if (status == nullptr) return refuse(100000, Rule::null_argument, "status", "null", "a place for the result");
        std::shared_ptr<Stream> queue;
        MOE_DEVICE_TRY(usable_stream(stream, &queue));
        uint64_t position;
        Clock known;
        {
            const std::lock_guard<std::mutex> lock(state_mutex());
            position = queue->submitted();
            known = queue->known;
        }
        const bool complete = queue->reached(position);
        *status = complete ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
        const std::lock_guard<std::mutex> lock(state_mutex());
        if (complete) host_reached(*queue, position, known);
        return 0;
    });
}

aclError aclrtCreateEvent(aclrtEvent* event) {
    return entry(MOE_HERE, [&] { return create_event(event, 0); });
}

aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag) {
    return entry(MOE_HERE, [&] { return create_event(event, flag); });
}

aclError aclrtDestroyEvent(aclrtEvent event) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Event> object;
        MOE_DEVICE_TRY(usable_event(event, "event", &object));
        withdraw<Event>(event);
        return 0;
    });
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Event> object;
        MOE_DEVICE_TRY(usable_event(event, "event", &object));
        std::shared_ptr<Stream> queue;
        MOE_DEVICE_TRY(usable_stream(stream, &queue));
        auto recording = std::make_shared<Recording>();
        const std::lock_guard<std::mutex> lock(state_mutex());
        recording->mark.position = queue->submit({origin(), {}, {}, [recording]() -> Status {
                                                      recording->time = std::chrono::steady_clock::now();
                                                      return 0;
                                                  }});
        recording->mark.stream = queue;
        recording->known = queue->known;
        object->recording = recording;
        return 0;
    });
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
    return entry(MOE_HERE, [&]() -> Status {
        if (status == nullptr) return refuse(100000, Rule::null_argument, "status", "null", "a place for the result");
        std::shared_ptr<Event> object;
        MOE_DEVICE_TRY(usable_event(event, "event", &object));
        const std::shared_ptr<Recording> recording = recording_of(*object);
        const bool complete = recording == nullptr || recording->mark.stream->reached(recording->mark.position);
        if (complete && recording != nullptr) host_waited(*recording);
        *status = complete ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
        return 0;
    });
}

aclError aclrtSynchronizeEvent(aclrtEvent event) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Event> object;
        MOE_DEVICE_TRY(usable_event(event, "event", &object));
        const std::shared_ptr<Recording> recording = recording_of(*object);
        if (recording == nullptr) return 0;
        recording->mark.stream->wait(recording->mark.position);
        host_waited(*recording);
        return 0;
    });
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Event> object;
        MOE_DEVICE_TRY(usable_event(event, "event", &object));
        std::shared_ptr<Stream> queue;
        MOE_DEVICE_TRY(usable_stream(stream, &queue));
        const std::lock_guard<std::mutex> lock(state_mutex());
        if (object->recording == nullptr || object->recording->mark.stream == queue) return 0;
        queue->submit({origin(), {object->recording->mark}, {}, nullptr});
        merge(&queue->known, object->recording->known);
        return 0;
    });
}

aclError aclrtEventElapsedTime(float* ms, aclrtEvent startEvent, aclrtEvent endEvent) {
    return entry(MOE_HERE, [&]() -> Status {
        if (ms == nullptr) return refuse(100000, Rule::null_argument, "ms", "null", "a place for the result");
        std::shared_ptr<Recording> recordings[2];
        const char* names[] = {"startEvent", "endEvent"};
        const aclrtEvent handles[] = {startEvent, endEvent};
        for (int i = 0; i < 2; ++i) {
            std::shared_ptr<Event> event;
            MOE_DEVICE_TRY(usable_event(handles[i], names[i], &event));
            recordings[i] = recording_of(*event);
            if (recordings[i] == nullptr || !recordings[i]->mark.stream->reached(recordings[i]->mark.position))
                return refuse(107000, Rule::stream_handle, names[i],
                              recordings[i] == nullptr ? "never recorded" : "not complete yet", "a completed event",
                              event->about());
        }
        *ms = std::chrono::duration<float, std::milli>(recordings[1]->time - recordings[0]->time).count();
        return 0;
    });
}
