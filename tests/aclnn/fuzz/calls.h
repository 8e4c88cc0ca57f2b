// Counts of what was called and of what came back, and the driver's numbers.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "every_header.h"

namespace fuzz {

enum class Function : int {
#define FUNCTION(name, result, parameters) name,
#define OPERATOR(name, parameters) aclnn##name##GetWorkspaceSize, aclnn##name,
#include "../functions.inc"
#undef FUNCTION
#undef OPERATOR
    count
};
constexpr int function_count = static_cast<int>(Function::count);

inline const char* name_of(Function function) {
    static constexpr const char* names[] = {
#define FUNCTION(name, result, parameters) #name,
#define OPERATOR(name, parameters) "aclnn" #name "GetWorkspaceSize", "aclnn" #name,
#include "../functions.inc"
#undef FUNCTION
#undef OPERATOR
    };
    return names[static_cast<int>(function)];
}

// Every decision comes from here, and the driver alone asks: equal seeds give equal calls.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {  // splitmix64
        uint64_t z = state_ += 0x9E3779B97F4A7C15;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
        z = (z ^ z >> 27) * 0x94D049BB133111EB;
        return z ^ z >> 31;
    }
    size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }
    bool chance(unsigned percent) { return below(100) < percent; }
    template <class T>
    T one_of(std::initializer_list<T> values) {
        return values.begin()[below(values.size())];
    }

  private:
    uint64_t state_;
};

struct Tally {
    std::atomic<uint64_t> calls[function_count] = {}, successes[function_count] = {}, executions[function_count] = {};
    std::atomic<uint64_t> total{0}, judged{0}, succeeded{0};
    std::atomic<int> last{0};
    std::mutex mutex;
    std::map<int32_t, uint64_t> statuses;
    std::map<std::string, uint64_t> rules;
    bool trace = false;
};
inline Tally& tally() {
    static Tally* const instance = new Tally;
    return *instance;
}

// Mistakes that were found on this thread during the current call.
inline thread_local unsigned mistakes = 0;

inline void begin(Function function) {
    const auto index = static_cast<int>(function);
    mistakes = 0;
    tally().last = index;
    ++tally().calls[index];
    const uint64_t number = ++tally().total;
    if (tally().trace) std::fprintf(stderr, "%llu %s\n", static_cast<unsigned long long>(number), name_of(function));
}

// A call whose result does not say whether it succeeded.
template <class Body>
auto look(Function function, Body&& body) {
    begin(function);
    return body();
}

// A call that returns a status, or a handle that is null when it fails.
template <class Body>
auto call(Function function, Body&& body) {
    begin(function);
    const auto result = body();
    bool success;
    if constexpr (std::is_pointer_v<decltype(body())>) {
        success = result != nullptr;
    } else {
        success = result == 0;
        const std::lock_guard<std::mutex> lock(tally().mutex);
        ++tally().statuses[result];
    }
    ++tally().judged;
    if (success) {
        ++tally().succeeded;
        ++tally().successes[static_cast<int>(function)];
    }
    return result;
}

}  // namespace fuzz

#define CALL(function, ...) ::fuzz::call(::fuzz::Function::function, [&] { return ::function(__VA_ARGS__); })
#define LOOK(function, ...) ::fuzz::look(::fuzz::Function::function, [&] { return ::function(__VA_ARGS__); })
