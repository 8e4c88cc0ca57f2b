// What the CPU device adds to a call: the C API in a loop, the same handed to another thread, the two phases of aclnn.
// No test: run it on a machine that does nothing else.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "moe_native/finalize.h"
#include "moe_native/runtime.h"

namespace {

constexpr int rounds = 4000;

void need(int status, const char* what) {
    if (status == 0) return;
    std::fprintf(stderr, "%s: %d\n", what, status);
    std::exit(1);
}
#define NEED(call) need(call, #call)

// What any device with a queue costs: a thread that waits for work, and one that waits for its end.
class Worker {
  public:
    Worker() : thread_([this] { work(); }) {}
    ~Worker() {
        run(nullptr);
        thread_.join();
    }
    void run(const std::function<void()>* job) {
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = job;
        busy_ = true;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !busy_; });
    }

  private:
    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (bool more = true; more;) {
            changed_.wait(lock, [this] { return busy_; });
            more = job_ != nullptr;
            lock.unlock();
            if (more) (*job_)();
            lock.lock();
            busy_ = false;
            changed_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    const std::function<void()>* job_ = nullptr;
    bool busy_ = false;
    std::thread thread_;
};

struct Case {
    const char* name;
    int64_t tokens, k, experts, hidden;
};

struct Operand {
    std::vector<int64_t> shape;
    std::vector<float> values;  // or the same number of int32
    aclDataType dtype;
    void* device = nullptr;
    aclTensor* tensor = nullptr;
    moe_tensor view = {};

    void make() {
        tensor = aclCreateTensor(shape.data(), shape.size(), dtype, nullptr, 0, ACL_FORMAT_ND, shape.data(),
                                 shape.size(), device);
    }
};

double median_us(const std::function<void()>& body) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> times;
    for (int i = 0; i < rounds; ++i) {
        const auto begin = Clock::now();
        body();
        times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[rounds / 2];
}

void measure(const Case& of, aclrtStream stream) {
    const int64_t rows = of.tokens * of.k;
    std::vector<float> ids(static_cast<size_t>(rows)), places(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) {
        reinterpret_cast<int32_t*>(ids.data())[i] = static_cast<int32_t>(i % of.experts);
        reinterpret_cast<int32_t*>(places.data())[i] = static_cast<int32_t>(i * 7 % rows);
    }
    const auto floats = [](int64_t count) { return std::vector<float>(static_cast<size_t>(count), 0.5f); };
    enum { x, places_at, skip1, skip2, bias, scales, ids_at, out, count };
    Operand operands[count] = {{{rows, of.hidden}, floats(rows * of.hidden), ACL_FLOAT},
                               {{rows}, places, ACL_INT32},
                               {{of.tokens, of.hidden}, floats(of.tokens * of.hidden), ACL_FLOAT},
                               {{of.tokens, of.hidden}, floats(of.tokens * of.hidden), ACL_FLOAT},
                               {{of.experts, of.hidden}, floats(of.experts * of.hidden), ACL_FLOAT},
                               {{of.tokens, of.k}, floats(rows), ACL_FLOAT},
                               {{of.tokens, of.k}, ids, ACL_INT32},
                               {{of.tokens, of.hidden}, floats(of.tokens * of.hidden), ACL_FLOAT}};
    for (Operand& operand : operands) {
        const size_t bytes = operand.values.size() * sizeof(float);
        NEED(aclrtMalloc(&operand.device, bytes, ACL_MEM_MALLOC_HUGE_FIRST));
        NEED(aclrtMemcpy(operand.device, bytes, operand.values.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
        operand.make();
        operand.view = moe_tensor_make(operand.device, operand.dtype == ACL_FLOAT ? MOE_FLOAT32 : MOE_INT32,
                                       static_cast<int32_t>(operand.shape.size()), operand.shape.data());
    }
    void* workspace = nullptr;
    NEED(aclrtMalloc(&workspace, 1 << 20, ACL_MEM_MALLOC_HUGE_FIRST));

    moe_finalize_routing_args args = {};
    args.expanded_permuted_rows = &operands[x].view;
    args.expanded_src_to_dst_row = &operands[places_at].view;
    args.skip1 = &operands[skip1].view;
    args.skip2 = &operands[skip2].view;
    args.bias = &operands[bias].view;
    args.scales = &operands[scales].view;
    args.export_for_source_row = &operands[ids_at].view;
    args.out = &operands[out].view;
    args.k = of.k;
    const std::function<void()> direct = [&] {
        moe_plan plan;
        NEED(moe_finalize_routing_plan(&args, &plan));
        NEED(moe_finalize_routing_run(&args, &plan, workspace, 1 << 20, nullptr));
    };
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    const auto phase1 = [&] {
        NEED(aclnnMoeFinalizeRoutingV2GetWorkspaceSize(
            operands[x].tensor, operands[places_at].tensor, operands[skip1].tensor, operands[skip2].tensor,
            operands[bias].tensor, operands[scales].tensor, operands[ids_at].tensor, 0, operands[out].tensor, &size,
            &executor));
    };
    const auto phase2 = [&] { NEED(aclnnMoeFinalizeRoutingV2(workspace, size, executor, stream)); };
    const auto two_phases = [&] {
        phase1();
        phase2();
        NEED(aclrtSynchronizeStream(stream));
    };
    const double core = median_us(direct);
    double handed = 0;
    {
        Worker worker;
        handed = median_us([&] { worker.run(&direct); });
    }
    const double full = median_us(two_phases);
    const double with_tensors = median_us([&] {
        for (Operand& operand : operands) {
            NEED(aclDestroyTensor(operand.tensor));
            operand.make();
        }
        two_phases();
    });
    const double first = median_us([&] {
        phase1();
        NEED(aclDestroyAclOpExecutor(executor));
    });
    phase1();
    NEED(aclSetAclOpExecutorRepeatable(executor));
    const double repeated = median_us([&] {
        phase2();
        NEED(aclrtSynchronizeStream(stream));
    });
    NEED(aclDestroyAclOpExecutor(executor));
    std::printf(
        "%-10s core %7.1f us, on another thread %7.1f, two phases %7.1f (%+.1f), and tensors %7.1f (%+.1f); "
        "phase 1 %.1f, phase 2 again %.1f\n",
        of.name, core, handed, full, full - handed, with_tensors, with_tensors - handed, first, repeated);
    for (Operand& operand : operands) {
        NEED(aclDestroyTensor(operand.tensor));
        NEED(aclrtFree(operand.device));
    }
    NEED(aclrtFree(workspace));
}

}  // namespace

int main() {
    NEED(aclInit(nullptr));
    NEED(aclrtSetDevice(0));
    aclrtStream stream = nullptr;
    NEED(aclrtCreateStream(&stream));
    for (const Case& of :
         {Case{"3 x 4", 3, 2, 3, 4}, Case{"16 x 2048", 16, 8, 32, 2048}, Case{"32 x 2048", 32, 8, 32, 2048}})
        measure(of, stream);
    NEED(aclrtDestroyStream(stream));
    NEED(aclrtResetDevice(0));
    NEED(aclFinalize());
    return 0;
}
