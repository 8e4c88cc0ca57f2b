// Executors: what phase 1 of an operator makes and phase 2 queues.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "aclnn/aclnn_base.h"
#include "aclnn/settings.h"
#include "aclnn/stream.h"
#include "aclnn/tensor.h"
#include "moe_native/runtime.h"

namespace moe::device {

// What is the same for every call of an operator. One static object each.
struct Operation {
    const char* name;              // of phase 2, e.g. "aclnnMoeFinalizeRoutingV2"
    bool individual;               // a generated operator; else composed by hand, which differs in how misuse shows
    Status failure = 161001;       // of phase 2 for a null executor, a null workspace with a size, a failed launch
    Status data_failure = 161002;  // of phase 2 for bad data, in strict mode
    bool defers_tiling = false;    // real: phase 1 hides a tiling failure, which phase 2 then returns as 561000
    const char* lenient = "";      // the core's name of an argument whose bad data is no fault in real either
};

// One tensor argument.
struct Operand {
    std::string name;                 // as the function of the interface calls it
    const char* core_name = nullptr;  // as the core calls it; null: the same
    std::shared_ptr<Tensor> tensor;   // null when absent
    TensorState state;                // as phase 1 saw it
    bool output = false;
    bool touched = true;    // see Call::never_read
    bool tiled = false;     // see Call::may_be_tiled
    bool replaced = false;  // an address setter gave it `address`
    void* address = nullptr;
};

// Which operand; an absent one has no view.
struct Slot {
    int index = -1;
};

// The operands as the core takes them.
class Views {
  public:
    std::vector<moe_tensor> tensors;
    std::vector<char> present;
    moe_tensor* operator[](Slot slot) const {
        const auto i = static_cast<size_t>(slot.index);
        return slot.index < 0 || !present[i] ? nullptr : const_cast<moe_tensor*>(&tensors[i]);
    }
};

// The core's functions of an operator.
template <class Args>
struct Core {
    moe_status (*plan)(const Args*, moe_plan*);
    moe_status (*run)(const Args*, const moe_plan*, void*, uint64_t, const moe_run_options*);
};
#define MOE_CORE(op) (::moe::device::Core<op##_args>{op##_plan, op##_run})

// The translation of one call, filled by phase 1 of an operator.
class Call {
  public:
    // Operands in the order of the interface. A null one that is required, and a handle that is no live tensor, are
    // remembered as the failure of the call: `status()`. `core_name` is what messages of the core call it.
    Slot input(const std::string& name, const aclTensor* handle, const char* core_name = nullptr);
    Slot optional_input(const std::string& name, const aclTensor* handle, const char* core_name = nullptr);
    Slot output(const std::string& name, const aclTensor* handle, const char* core_name = nullptr);
    Slot optional_output(const std::string& name, const aclTensor* handle, const char* core_name = nullptr);
    // The core looks at the shape of the operand, not at its memory, which may hold or be anything.
    void never_read(Slot slot) { operands[static_cast<size_t>(slot.index)].touched = false; }
    // Nobody looks at the operand at all, which its caller may not know.
    void ignore(Slot slot);
    // The operand may be in FRACTAL_NZ; the others may not.
    void may_be_tiled(Slot slot) { operands[static_cast<size_t>(slot.index)].tiled = true; }
    // What messages of the core call an argument that is no tensor, and what the interface calls it.
    void rename(const char* core_word, const char* word) { words_.emplace_back(core_word, word); }

    Status status() const { return status_; }
    bool has(Slot slot) const { return slot.index >= 0 && operands[static_cast<size_t>(slot.index)].tensor != nullptr; }
    // For checks and for changes of what the core sees; of an operand that is there.
    TensorState& state(Slot slot) { return operands[static_cast<size_t>(slot.index)].state; }
    const TensorState& state(Slot slot) const { return operands[static_cast<size_t>(slot.index)].state; }
    const std::shared_ptr<Tensor>& tensor(Slot slot) const { return operands[static_cast<size_t>(slot.index)].tensor; }
    const std::string& name(Slot slot) const { return operands[static_cast<size_t>(slot.index)].name; }

    // Refusals with the usual wording.
    Status refuse_value(Status status, const char* attribute, int64_t seen, const std::string& needed) const;
    Status refuse_operand(Status status, Slot slot, const std::string& needed) const;

    // What computes the call: `arguments` makes the core's arguments of views, as often as it is asked to.
    template <class Args, class Make>
    void compute(Core<Args> core, Make arguments) {
        plan_ = [core, arguments](const Views& views, moe_plan* plan) {
            const Args args = arguments(views);
            return core.plan(&args, plan);
        };
        run_ = [core, arguments](const Views& views, const moe_plan* plan, void* workspace, uint64_t size,
                                 const moe_run_options* options) {
            const Args args = arguments(views);
            return core.run(&args, plan, workspace, size, options);
        };
    }
    // Nothing is to be done, e.g. for empty tensors.
    void compute_nothing() {
        plan_ = nullptr;
        run_ = nullptr;
    }

    // Phase 1, once the core has accepted the arguments: what a card refuses and the core does not. May call
    // compute_nothing.
    std::function<Status()> also_check;
    // At the end of a phase 1 that succeeds, and of a phase 2: changes of the caller's tensors.
    std::function<void()> planned;
    std::function<void()> queued;
    // The core's status of phase 1 as the operator returns it, 0 for one that has nothing to do; null: as it is.
    std::function<Status(Status)> translate;

    // --- For the frame ---
    Views views() const;
    Status plan(const Views& views, moe_plan* plan) const;
    Status run(const Views& views, const moe_plan* plan, void* workspace, uint64_t size,
               const moe_run_options* options) const;
    bool computes() const { return run_ != nullptr; }
    // Turns the core's last error into a refusal in the words of the interface.
    Status refuse_core_error(Status status) const;
    std::string in_words_of_interface(std::string message) const;

    std::vector<Operand> operands;

  private:
    Slot add(const std::string& name, const aclTensor* handle, const char* core_name, bool output, bool required);

    Status status_ = 0;
    std::vector<std::pair<std::string, std::string>> words_;
    std::function<Status(const Views&, moe_plan*)> plan_;
    std::function<Status(const Views&, const moe_plan*, void*, uint64_t, const moe_run_options*)> run_;
};

class Executor : public Object {
  public:
    static constexpr Kind object_kind = Kind::executor;
    Executor(const Operation& operation_, std::shared_ptr<Call> translated)
        : Object(object_kind), operation(operation_), call(std::move(translated)), mode(device::mode()) {}

    const Operation& operation;
    const std::shared_ptr<Call> call;
    const Mode mode;
    uint64_t workspace_size = 0;
    Status hidden_failure = 0;  // see Operation::defers_tiling
    // --- Under `mutex` ---
    std::mutex mutex;
    bool repeatable = false;
    bool ran = false;
};

// Phase 1. `translate` is Status(Call&): it adds the operands, checks what the core does not, and calls compute.
Status first_phase(const Operation& operation, uint64_t* workspace_size, aclOpExecutor** executor,
                   const std::function<Status(Call&)>& translate);

// Phase 2.
Status second_phase(const Operation& operation, void* workspace, uint64_t workspace_size, aclOpExecutor* executor,
                    aclrtStream stream);

// The values of an array argument; false with a refusal when it is no live array. Null gives none.
Status array_values(const aclIntArray* handle, const char* argument, std::vector<int64_t>* values);

// The second function of an operator is the same for all.
#define MOE_SECOND_PHASE(function, operation)                                                                    \
    aclnnStatus function(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) { \
        return ::moe::device::entry(MOE_HERE, [&] {                                                              \
            return ::moe::device::second_phase(operation, workspace, workspaceSize, executor, stream);           \
        });                                                                                                      \
    }

}  // namespace moe::device
