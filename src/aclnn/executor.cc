#include "aclnn/executor.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <deque>

#include "aclnn/context.h"
#include "aclnn/state.h"

namespace moe::device {
namespace {

constexpr uint64_t workspace_unit = 512;
constexpr size_t most_operands = 20;
constexpr Status kernel_fault = 507015;
// Operands that their allocations do not hold are computed in host memory up to this size.
constexpr size_t largest_stand_in = size_t{1} << 30;
// Data that an undersized input lacks: no index, count or id of any operator.
constexpr int missing_byte = 0xFF;
constexpr uintptr_t tensor_alignment = 32;

// The interface enforces a card's limits in every mode.
class CardLimits {
  public:
    CardLimits() : previous_(moe_set_limits(MOE_LIMITS_ATLAS_A2)) {}
    ~CardLimits() { moe_set_limits(previous_); }
    CardLimits(const CardLimits&) = delete;
    CardLimits& operator=(const CardLimits&) = delete;

  private:
    const moe_limits previous_;
};

std::string camel_case(const std::string& word) {
    std::string out;
    for (size_t i = 0; i < word.size(); ++i) {
        if (word[i] == '_' && i > 0 && i + 1 < word.size())
            out += static_cast<char>(std::toupper(static_cast<unsigned char>(word[++i])));
        else
            out += word[i];
    }
    return out;
}

bool in_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

uint64_t round_up(uint64_t size) {
    return (size + workspace_unit - 1) / workspace_unit * workspace_unit;
}

}  // namespace

// --- Call -----------------------------------------------------------------------------------------------------------

Slot Call::add(const std::string& name, const aclTensor* handle, const char* core_name, bool output, bool required) {
    if (operands.empty()) operands.reserve(most_operands);
    Operand& operand = operands.emplace_back();
    operand.name = name;
    operand.core_name = core_name;
    operand.output = output;
    if (handle != nullptr || required) {
        std::shared_ptr<Tensor> tensor;
        const Status status = status_ == 0 ? need_tensor(handle, name.c_str(), &tensor) : status_;
        if (status_ == 0) status_ = status;
        if (tensor != nullptr) {
            operand.tensor = tensor;
            operand.state = tensor->state();
        }
    }
    return {static_cast<int>(operands.size()) - 1};
}

Slot Call::input(const std::string& name, const aclTensor* handle, const char* core_name) {
    return add(name, handle, core_name, false, true);
}
Slot Call::optional_input(const std::string& name, const aclTensor* handle, const char* core_name) {
    return add(name, handle, core_name, false, false);
}
Slot Call::output(const std::string& name, const aclTensor* handle, const char* core_name) {
    return add(name, handle, core_name, true, true);
}
Slot Call::optional_output(const std::string& name, const aclTensor* handle, const char* core_name) {
    return add(name, handle, core_name, true, false);
}

void Call::ignore(Slot slot) {
    never_read(slot);
    Operand& operand = operands[static_cast<size_t>(slot.index)];
    if (operand.tensor == nullptr) return;
    operand.tiled = true;
    warn(Rule::argument, operand.name, "a tensor, which nobody looks at", "null", operand.tensor->about());
}

Status Call::refuse_value(Status status, const char* attribute, int64_t seen, const std::string& needed) const {
    return refuse(status, Rule::argument, attribute, std::to_string(seen), needed);
}

Status Call::refuse_operand(Status status, Slot slot, const std::string& needed) const {
    const Operand& operand = operands[static_cast<size_t>(slot.index)];
    return refuse(status, Rule::argument, operand.name, describe(operand.state), needed, operand.tensor->about());
}

Views Call::views() const {
    Views views;
    views.present.reserve(operands.size());
    views.tensors.reserve(operands.size());
    for (const Operand& operand : operands) {
        views.present.push_back(operand.tensor != nullptr);
        views.tensors.push_back(operand.tensor == nullptr ? moe_tensor{} : view_of(operand.state, operand.state.data));
    }
    return views;
}

Status Call::plan(const Views& views, moe_plan* plan) const {
    *plan = {};
    if (plan_ == nullptr) return 0;
    const CardLimits limits;
    return plan_(views, plan);
}

Status Call::run(const Views& views, const moe_plan* plan, void* workspace, uint64_t size,
                 const moe_run_options* options) const {
    const CardLimits limits;
    return run_(views, plan, workspace, size, options);
}

std::string Call::in_words_of_interface(std::string message) const {
    std::string out;
    for (size_t i = 0; i < message.size();) {
        size_t end = i;
        while (end < message.size() && in_word(message[end])) ++end;
        if (end == i) {
            out += message[i++];
            continue;
        }
        const std::string word = message.substr(i, end - i);
        const auto operand = std::find_if(operands.begin(), operands.end(), [&](const Operand& candidate) {
            return word == (candidate.core_name == nullptr ? candidate.name : candidate.core_name);
        });
        const auto other =
            std::find_if(words_.begin(), words_.end(), [&](const auto& candidate) { return candidate.first == word; });
        out += operand != operands.end() ? operand->name : other != words_.end() ? other->second : camel_case(word);
        i = end;
    }
    return out;
}

Status Call::refuse_core_error(Status status) const {
    const moe_error error = *moe_last_error();
    std::string message = error.message;
    const std::string prefix = std::string(error.argument) + ": ";
    if (message.compare(0, prefix.size(), prefix) == 0) message.erase(0, prefix.size());
    const Rule rule = error.kind == MOE_KIND_MISSING ? Rule::null_argument
                      : error.kind == MOE_KIND_DATA  ? Rule::data_range
                                                     : Rule::argument;
    // The core's messages end in what is needed.
    std::string needed;
    const size_t cut = message.rfind(", needed ");
    if (cut != std::string::npos) {
        needed = in_words_of_interface(message.substr(cut + 9));
        message.erase(cut);
    }
    return refuse(status, rule, in_words_of_interface(error.argument), in_words_of_interface(message), needed);
}

Status array_values(const aclIntArray* handle, const char* argument, std::vector<int64_t>* values) {
    values->clear();
    if (handle == nullptr) return 0;
    const std::shared_ptr<IntArray> array = lookup<IntArray>(handle);
    if (array == nullptr) {
        const Fate fate = fate_of(handle, Kind::int_array);
        return refuse(161002, Rule::double_destroy, argument, fate.text, "a live int array",
                      {&fate.made, handle, fate.number});
    }
    *values = array->values;
    return 0;
}

// --- Phase 1 --------------------------------------------------------------------------------------------------------

namespace {

// Layouts that a card takes as they come and computes something else with.
Status check_layout(const Operation& operation, Operand& operand) {
    TensorState& state = operand.state;
    const About about = operand.tensor->about();
    if (state.shape.size() > MOE_MAX_RANK)
        return refuse(161002, Rule::tensor_layout, operand.name, text("%zu dimensions", state.shape.size()),
                      text("at most %d", MOE_MAX_RANK), about);
    const auto negative = [](int64_t value) { return value < 0; };
    if (state.offset < 0)
        MOE_DEVICE_TRY(mistake(161002, Rule::tensor_layout, operand.name,
                               text("offset %lld", static_cast<long long>(state.offset)), "0 or more", about));
    if (std::any_of(state.shape.begin(), state.shape.end(), negative)) return 0;  // the core refuses it
    if (state.format == ACL_FORMAT_FRACTAL_NZ && !operand.tiled)
        return refuse(161002, Rule::argument, operand.name, "format 29 (FRACTAL_NZ)", "a plain format, e.g. 2 (ND)",
                      about);
    if (state.dtype == ACL_INT4 && (!state.is_dense() || state.offset % 2 != 0))
        return refuse(161002, Rule::argument, operand.name, describe(state) + " with strides or an odd offset",
                      "a contiguous tensor of int4 that begins with a byte", about);
    if (std::any_of(state.strides.begin(), state.strides.end(), negative))
        MOE_DEVICE_TRY(
            mistake(161002, Rule::tensor_layout, operand.name, "a negative stride", "strides of 0 or more", about));
    if (!operand.output || state.is_dense() || !state.has_elements()) return 0;
    // A place that two indices share is written twice.
    using Wide = __int128;  // strides and their products are any
    std::vector<std::pair<Wide, int64_t>> dims;
    for (size_t d = 0; d < state.shape.size(); ++d)
        if (state.shape[d] > 1) {
            const Wide stride = state.strides[d];
            dims.emplace_back(stride < 0 ? -stride : stride, state.shape[d]);
        }
    std::sort(dims.begin(), dims.end());
    Wide reach = 0;
    bool overlaps = false;
    for (const auto& [stride, dim] : dims) {
        overlaps = stride <= reach;
        if (overlaps) break;
        reach += stride * (dim - 1);
    }
    if (overlaps)
        MOE_DEVICE_TRY(mistake(161002, Rule::tensor_layout, operand.name, "strides that give two elements one place",
                               "a place for every element of an output", about));
    if (!operation.individual) return 0;
    MOE_DEVICE_TRY(mistake(161002, Rule::strided_output, operand.name, "an output with strides",
                           "a contiguous output: the operator writes densely", about));
    if (mode() == MOE_ACLNN_REAL) state.strides = row_major(state.shape);
    return 0;
}

}  // namespace

Status first_phase(const Operation& operation, uint64_t* workspace_size, aclOpExecutor** executor,
                   const std::function<Status(Call&)>& translate) {
    const auto call = std::make_shared<Call>();
    MOE_DEVICE_TRY(translate(*call));
    if (workspace_size == nullptr)
        return refuse(161001, Rule::null_argument, "workspaceSize", "null", "a place for the size");
    if (executor == nullptr) return refuse(161001, Rule::null_argument, "executor", "null", "a place for the executor");
    for (Operand& operand : call->operands)
        if (operand.tensor != nullptr) MOE_DEVICE_TRY(check_layout(operation, operand));
    moe_plan plan;
    Status status = call->plan(call->views(), &plan);
    auto made = std::make_shared<Executor>(operation, call);
    if (status == 0 && call->also_check != nullptr) MOE_DEVICE_TRY(call->also_check());
    if (!call->computes()) plan = {};
    if (status != 0) {
        if (call->translate != nullptr) status = call->translate(status);
        if (status == 0) {
            call->compute_nothing();
        } else {
            status = call->refuse_core_error(status);
            if (made->mode != MOE_ACLNN_REAL || !operation.defers_tiling || status / 1000 != 561) return status;
            made->hidden_failure = 561000;
        }
        plan = {};
    }
    made->workspace_size = round_up(plan.workspace_size);
    if (option(MOE_ACLNN_OPTION_WORKSPACE)) made->workspace_size += workspace_unit;
    if (call->planned != nullptr) call->planned();
    *workspace_size = made->workspace_size;
    *executor = static_cast<aclOpExecutor*>(add_object(std::move(made)));
    return 0;
}

// --- Phase 2 --------------------------------------------------------------------------------------------------------

namespace {

// An operand that is computed in host memory because its allocation is too small, or because it overlaps another.
struct StandIn {
    size_t operand;
    Range real;   // what there is of it
    Range whole;  // what there should be
    bool output;
    std::vector<char> memory;
};

// One run of an executor, as the task has it.
struct Launch {
    std::shared_ptr<Executor> executor;
    Views views;
    moe_plan plan;
    void* workspace = nullptr;
    uint64_t workspace_size = 0;
    Range lent;  // the client's workspace, as far as phase 1 asked for it
    std::vector<char> own_workspace;
    std::vector<StandIn> stand_ins;
    std::vector<AllocationPtr> memory;
    bool executable = true;  // else a fault at the synchronisation
    bool needs_workspace = false;
    Status outcome = 0;  // of the core
    std::string message;
};

void enter(Launch& launch, StandIn& stand_in) {
    stand_in.memory.assign(stand_in.whole.end - stand_in.whole.begin, static_cast<char>(missing_byte));
    if (!stand_in.real.empty())
        std::memcpy(stand_in.memory.data() + (stand_in.real.begin - stand_in.whole.begin),
                    reinterpret_cast<const void*>(stand_in.real.begin), stand_in.real.end - stand_in.real.begin);
    moe_tensor& tensor = launch.views.tensors[stand_in.operand];
    tensor.data = stand_in.memory.data() + (reinterpret_cast<uintptr_t>(tensor.data) - stand_in.whole.begin);
}

void leave(const StandIn& stand_in) {
    if (stand_in.output && !stand_in.real.empty())
        std::memcpy(reinterpret_cast<void*>(stand_in.real.begin),
                    stand_in.memory.data() + (stand_in.real.begin - stand_in.whole.begin),
                    stand_in.real.end - stand_in.real.begin);
}

// The task of phase 2: the core does the work.
Status execute(Launch& launch) {
    const Call& call = *launch.executor->call;
    std::deque<Opened> opened;
    for (const AllocationPtr& allocation : launch.memory) opened.emplace_back(allocation.get());
    for (StandIn& stand_in : launch.stand_ins) enter(launch, stand_in);
    if (launch.needs_workspace) {
        launch.own_workspace.resize(launch.plan.workspace_size);
        launch.workspace = launch.own_workspace.data();
        launch.workspace_size = launch.own_workspace.size();
    }
    if (option(MOE_ACLNN_OPTION_POISON) && launch.workspace != nullptr)
        std::memset(launch.workspace, poison_byte, launch.workspace_size);
    moe_data_report report = {};
    moe_run_options options = {launch.executor->mode == MOE_ACLNN_COMPAT ? MOE_DATA_SKIP : MOE_DATA_REJECT,
                               MOE_UNDEFINED_KEEP, &report};
    const auto run = [&] {
        launch.outcome = call.run(launch.views, &launch.plan, launch.workspace, launch.workspace_size, &options);
    };
    run();
    const moe_error& error = *moe_last_error();
    if (launch.executor->mode == MOE_ACLNN_REAL && launch.outcome != 0 && error.kind == MOE_KIND_DATA &&
        std::strcmp(error.argument, launch.executor->operation.lenient) == 0) {
        options.data_policy = MOE_DATA_SKIP;
        run();
    }
    if (launch.outcome == 0)
        for (const StandIn& stand_in : launch.stand_ins) leave(stand_in);
    for (const AllocationPtr& allocation : launch.memory)
        if (!allocation->guards_intact()) tell_overrun(*allocation, "");
    if (report.count > 0)
        record(Rule::data_range, call.in_words_of_interface(report.argument),
               text("%lld at position %lld, and %llu like it", static_cast<long long>(report.value),
                    static_cast<long long>(report.index), static_cast<unsigned long long>(report.count - 1)),
               "entries that lead into the tensors; these were left out");
    return launch.outcome;
}

// Counts as a fault of the launch: nothing is executed, and the synchronisation tells.
Status not_executable(Launch& launch, Status strict_status, Rule rule, const std::string& argument,
                      const std::string& seen, const std::string& needed, const About& about) {
    launch.executable = false;
    launch.message = argument + ": " + seen + ", needed " + needed;
    return mistake(strict_status, rule, argument, seen, needed, about);
}

struct Placed {
    size_t operand;
    Range range;
    AllocationPtr allocation;
};

// Where an operand lies, and whether it may be touched. Under the state lock.
Status place(Launch& launch, size_t index, std::vector<Placed>* placed) {
    const Operand& operand = launch.executor->call->operands[index];
    const moe_tensor& view = launch.views.tensors[index];
    const About about = operand.tensor->about();
    Range range;
    if (!extent_of(view, &range))
        return not_executable(launch, 161002, Rule::tensor_extent, operand.name,
                              describe(operand.state) + " beyond every address", "a tensor inside of its allocation",
                              about);
    if (range.empty()) return 0;
    const AllocationPtr allocation = find_allocation(reinterpret_cast<const void*>(range.begin));
    if (allocation == nullptr)
        return not_executable(launch, 161002, Rule::host_pointer, operand.name,
                              describe_address(reinterpret_cast<const void*>(range.begin)), "live device memory",
                              {about.made, view.data, about.number});
    if (!allocation->asked().contains(range)) {
        const std::string seen =
            text("bytes %zu to %zu of an allocation of %zu", range.begin - allocation->memory.begin,
                 range.end - allocation->memory.begin, allocation->size);
        const bool covered = allocation->memory.contains(range);
        if (!covered && (launch.executor->mode != MOE_ACLNN_COMPAT || range.end - range.begin > largest_stand_in))
            return not_executable(launch, 161002, Rule::tensor_extent, operand.name, seen,
                                  "a tensor inside of its allocation", allocation->about());
        MOE_DEVICE_TRY(mistake(161002, Rule::tensor_extent, operand.name, seen, "a tensor inside of its allocation",
                               allocation->about()));
        if (!covered)
            launch.stand_ins.push_back(
                {index, {range.begin, std::min(range.end, allocation->memory.end)}, range, operand.output, {}});
    }
    if (reinterpret_cast<uintptr_t>(operand.replaced ? operand.address : operand.state.data) % tensor_alignment != 0)
        warn(Rule::tensor_layout, operand.name, text("address %p", operand.state.data), "a multiple of 32", about);
    if (!operand.output && !allocation->is_written({range.begin, std::min(range.end, allocation->memory.end)}))
        warn(Rule::uninitialised, operand.name, "memory that nothing was written to, or not all of it",
             "memory with contents", allocation->about());
    placed->push_back({index, {range.begin, std::min(range.end, allocation->memory.end)}, allocation});
    return 0;
}

// An output over another operand is computed apart, so that what was checked stays as it was.
Status separate_outputs(Launch& launch, const std::vector<Placed>& placed) {
    const Call& call = *launch.executor->call;
    for (const Placed& output : placed) {
        if (!call.operands[output.operand].output) continue;
        for (const Placed& other : placed) {
            if (other.operand == output.operand || !output.range.overlaps(other.range)) continue;
            if (call.operands[other.operand].output && other.operand < output.operand) continue;
            // Of an operator that changes its tensor both are one argument.
            if (call.operands[output.operand].name == call.operands[other.operand].name) continue;
            MOE_DEVICE_TRY(mistake(161002, Rule::aliasing, call.operands[output.operand].name,
                                   "the memory of " + call.operands[other.operand].name, "memory of its own",
                                   output.allocation->about()));
            const bool apart = std::any_of(launch.stand_ins.begin(), launch.stand_ins.end(),
                                           [&](const StandIn& stand_in) { return stand_in.operand == output.operand; });
            Range whole;
            extent_of(launch.views.tensors[output.operand], &whole);
            if (!apart) launch.stand_ins.push_back({output.operand, output.range, whole, true, {}});
        }
    }
    return 0;
}

// Nor may the workspace lie over an operand.
Status separate_workspace(Launch& launch, const std::vector<Placed>& placed) {
    for (const Placed& one : placed) {
        if (!one.range.overlaps(launch.lent)) continue;
        launch.needs_workspace = launch.plan.workspace_size > 0;
        return mistake(161002, Rule::aliasing, "workspace",
                       "the memory of " + launch.executor->call->operands[one.operand].name, "memory of its own",
                       one.allocation->about());
    }
    return 0;
}

// What the operands are by now. Whatever differs from phase 1 is the client's mistake.
Status resolve_operands(Launch& launch) {
    const Executor& executor = *launch.executor;
    const size_t count = executor.call->operands.size();
    launch.views.present.resize(count);
    launch.views.tensors.resize(count);
    for (size_t i = 0; i < count; ++i) {
        const Operand& operand = executor.call->operands[i];
        if (operand.tensor == nullptr) continue;
        void* data = nullptr;
        bool moved = false, redefined = false, planned = false;
        operand.tensor->look([&](const TensorState& now) {
            data = operand.replaced ? operand.address : now.data;
            moved = now.raw_sets != operand.state.raw_sets;
            redefined = now.redefinitions != operand.state.redefinitions;
            planned = now.tiles == Tiles::planned;
        });
        if (operand.tensor->destroyed)
            MOE_DEVICE_TRY(mistake(561103, Rule::tensor_destroyed, operand.name, "a tensor that was destroyed",
                                   "tensors that live until phase 2 has returned", operand.tensor->about()));
        if (redefined)
            MOE_DEVICE_TRY(mistake(161002, Rule::repeatable_change, operand.name, "aclInitTensor since phase 1",
                                   "the shape, dtype and format of phase 1", operand.tensor->about()));
        if (moved)
            MOE_DEVICE_TRY(mistake(161002, Rule::raw_address, operand.name, "another address since phase 1",
                                   "the address of phase 1, or aclSetTensorAddr", operand.tensor->about()));
        if (planned && operand.state.format == ACL_FORMAT_FRACTAL_NZ && !operand.output)
            MOE_DEVICE_TRY(
                mistake(161002, Rule::nz_not_ready, operand.name, "FRACTAL_NZ in name only: its conversion was not run",
                        "phase 2 of aclnnTransMatmulWeight or aclnnNpuFormatCast before", operand.tensor->about()));
        launch.views.present[i] = 1;
        launch.views.tensors[i] = view_of(operand.state, data);
    }
    return 0;
}

Status check_workspace(Launch& launch, void* workspace, uint64_t size) {
    const Executor& executor = *launch.executor;
    const Operation& operation = executor.operation;
    if (size < executor.workspace_size) {
        const std::string seen = text("%llu bytes", static_cast<unsigned long long>(size));
        const std::string needed =
            text("the %llu that phase 1 said", static_cast<unsigned long long>(executor.workspace_size));
        if (operation.individual)
            return refuse(161002, Rule::workspace_size, "workspaceSize", seen, needed, executor.about());
        MOE_DEVICE_TRY(mistake(161002, Rule::workspace_size, "workspaceSize", seen, needed, executor.about()));
        launch.needs_workspace = true;
        return 0;
    }
    if (size == 0) return 0;
    const std::lock_guard<std::mutex> lock(state_mutex());
    const AllocationPtr allocation = find_allocation(workspace);
    if (allocation == nullptr)
        return not_executable(launch, 161002, Rule::host_pointer, "workspace", describe_address(workspace),
                              "live device memory", executor.about());
    const Range range = range_of(workspace, size);
    if (!allocation->asked().contains(range)) {
        MOE_DEVICE_TRY(
            mistake(161002, Rule::workspace_buffer, "workspace",
                    text("%zu bytes of an allocation of %zu", allocation->asked().end - range.begin, allocation->size),
                    text("%llu bytes", static_cast<unsigned long long>(size)), allocation->about()));
        launch.needs_workspace = !allocation->memory.contains(range_of(workspace, executor.workspace_size));
    }
    launch.lent = range_of(workspace, executor.workspace_size);
    return 0;
}

// Puts the run into the stream.
Status queue(const std::shared_ptr<Launch>& launch, const std::shared_ptr<Stream>& stream, uint64_t* position) {
    const std::shared_ptr<Executor>& executor = launch->executor;
    const Call& call = *executor->call;
    Task task;
    task.origin = origin();
    const std::lock_guard<std::mutex> lock(state_mutex());
    std::vector<Placed> placed;
    if (call.computes()) {
        for (size_t i = 0; i < call.operands.size(); ++i)
            if (launch->views.present[i] && call.operands[i].touched) MOE_DEVICE_TRY(place(*launch, i, &placed));
        MOE_DEVICE_TRY(separate_outputs(*launch, placed));
        MOE_DEVICE_TRY(separate_workspace(*launch, placed));
    }
    if (!launch->executable) {
        task.run = [message = std::string(executor->operation.name) + ": " + launch->message]() -> Status {
            add_error_text(kernel_fault, message);
            return kernel_fault;
        };
        *position = stream->submit(std::move(task));
        return 0;
    }
    if (launch->workspace != nullptr && !launch->needs_workspace)
        placed.push_back({call.operands.size(), range_of(launch->workspace, launch->plan.workspace_size),
                          find_allocation(launch->workspace)});
    const auto writes = [&](const Placed& one) {
        return one.operand == call.operands.size() || call.operands[one.operand].output;
    };
    for (const Placed& one : placed)
        MOE_DEVICE_TRY(book_access(one.allocation, one.range, writes(one),
                                   one.operand == call.operands.size() ? "workspace" : call.operands[one.operand].name,
                                   *stream, 161002, &task));
    const bool answers = executor->mode == MOE_ACLNN_STRICT && !deferred();
    task.run = [launch, answers]() -> Status {
        if (!launch->executor->call->computes()) return 0;
        const Status status = execute(*launch);
        if (status == 0) return 0;
        if (answers) {
            launch->message = moe_last_error()->message;
            return 0;
        }
        launch->executor->call->refuse_core_error(kernel_fault);
        return kernel_fault;
    };
    for (const Placed& one : placed) {
        if (writes(one)) one.allocation->mark_written(one.range);
        launch->memory.push_back(one.allocation);
    }
    *position = stream->submit(std::move(task));
    for (const Placed& one : placed)
        one.allocation->add_access({stream->number, *position, one.range, writes(one), executor->operation.name});
    return 0;
}

Status launch(const std::shared_ptr<Executor>& executor, void* workspace, uint64_t workspace_size,
              aclrtStream stream_handle) {
    const Operation& operation = executor->operation;
    if (current_context() == nullptr)
        return refuse(361001, Rule::no_device, "", "no context on this thread", "aclrtSetDevice before");
    std::shared_ptr<Stream> stream;
    if (usable_stream(stream_handle, &stream) != 0) return operation.failure;
    if (executor->hidden_failure != 0)
        return refuse(executor->hidden_failure, Rule::argument, "", "phase 1 had failed", "arguments that are allowed");
    const auto run = std::make_shared<Launch>();
    run->executor = executor;
    MOE_DEVICE_TRY(resolve_operands(*run));
    MOE_DEVICE_TRY(check_workspace(*run, workspace, workspace_size));
    if (executor->call->plan(run->views, &run->plan) != 0) return executor->call->refuse_core_error(operation.failure);
    // New addresses may ask for copies that phase 1 did not book.
    if (run->plan.workspace_size > executor->workspace_size) run->needs_workspace = true;
    if (run->plan.workspace_size == 0) run->needs_workspace = false;
    if (!run->needs_workspace && run->plan.workspace_size > 0) {
        run->workspace = workspace;
        run->workspace_size = run->plan.workspace_size;  // there may be less than the client says
    }
    uint64_t position = 0;
    MOE_DEVICE_TRY(queue(run, stream, &position));
    if (executor->call->queued != nullptr) executor->call->queued();
    if (executor->mode != MOE_ACLNN_STRICT || deferred()) return 0;
    stream->wait(position);
    if (run->outcome == 0) return 0;
    return refuse(run->outcome == MOE_ERROR_INVALID ? operation.data_failure : run->outcome, Rule::data_range, "",
                  executor->call->in_words_of_interface(run->message), "");
}

}  // namespace

Status second_phase(const Operation& operation, void* workspace, uint64_t workspace_size, aclOpExecutor* handle,
                    aclrtStream stream) {
    if (handle == nullptr)
        return refuse(operation.failure, Rule::null_argument, "executor", "null", "the executor of phase 1");
    const std::shared_ptr<Executor> executor = lookup<Executor>(handle);
    if (executor == nullptr) {
        const Fate fate = fate_of(handle, Kind::executor);
        return refuse(561000, fate.was_known ? Rule::executor_spent : Rule::executor_unknown, "executor", fate.text,
                      "the executor of phase 1", {&fate.made, handle, fate.number});
    }
    if (&executor->operation != &operation)
        return refuse(561000, Rule::executor_mixed, "executor", std::string("made for ") + executor->operation.name,
                      operation.name, executor->about());
    if (workspace_size > 0 && workspace == nullptr) {
        if (!operation.individual) withdraw<Executor>(handle);
        return refuse(operation.failure, Rule::workspace_null, "workspace", "null",
                      text("%llu bytes of device memory", static_cast<unsigned long long>(workspace_size)),
                      executor->about());
    }
    const std::lock_guard<std::mutex> lock(executor->mutex);
    executor->ran = true;
    // Taken out first: of two threads that run a one-shot executor, one does.
    if (!executor->repeatable && withdraw<Executor>(handle) == nullptr) {
        const Fate fate = fate_of(handle, Kind::executor);
        return refuse(561000, Rule::executor_spent, "executor", fate.text, "the executor of phase 1",
                      {&fate.made, handle, fate.number});
    }
    return launch(executor, workspace, workspace_size, stream);
}

namespace {

Status need_executor(aclOpExecutor* handle, std::shared_ptr<Executor>* executor) {
    if (handle == nullptr) return refuse(561103, Rule::repeatable, "executor", "null", "the executor of phase 1");
    *executor = lookup<Executor>(handle);
    if (*executor != nullptr) return 0;
    const Fate fate = fate_of(handle, Kind::executor);
    return refuse(561000, fate.was_known ? Rule::executor_spent : Rule::executor_unknown, "executor", fate.text,
                  "an executor that is alive", {&fate.made, handle, fate.number});
}

enum class Direction { input, output, any };

Status set_address(aclOpExecutor* handle, size_t index, aclTensor* tensor_handle, void* address, Direction direction) {
    std::shared_ptr<Tensor> tensor;
    MOE_DEVICE_TRY(need_tensor(tensor_handle, "tensor", &tensor, 561103));
    tensor->change([&](TensorState& state) { state.data = address; });
    std::shared_ptr<Executor> executor;
    MOE_DEVICE_TRY(need_executor(handle, &executor));
    const std::lock_guard<std::mutex> lock(executor->mutex);
    size_t position = 0;
    for (Operand& operand : executor->call->operands) {
        if (direction != Direction::any && operand.output != (direction == Direction::output)) continue;
        if (position++ != index) continue;
        if (operand.tensor == nullptr) break;
        if (executor->operation.individual || operand.tensor == tensor) {
            operand.replaced = true;
            operand.address = address;
        }
        return 0;
    }
    const std::string seen = text("index %zu", index);
    const std::string needed = text("an argument that is there, of %zu", position);
    if (executor->operation.individual)
        return refuse(161002, Rule::repeatable_change, "index", seen, needed, executor->about());
    warn(Rule::repeatable_change, "index", seen, needed, executor->about());
    return 0;
}

Status set_list_address(aclOpExecutor* handle, size_t index, size_t relative, aclTensorList* list_handle, void* address,
                        Direction direction) {
    if (list_handle == nullptr) return refuse(561103, Rule::null_argument, "tensors", "null", "a tensor list");
    const std::shared_ptr<TensorList> list = lookup<TensorList>(list_handle);
    if (list == nullptr) {
        const Fate fate = fate_of(list_handle, Kind::tensor_list);
        return refuse(161002, Rule::tensor_destroyed, "tensors", fate.text, "a live tensor list",
                      {&fate.made, list_handle, fate.number});
    }
    if (relative >= list->values.size())
        return refuse(161002, Rule::repeatable_change, "relativeIndex", text("%zu", relative),
                      text("below %zu", list->values.size()), list->about());
    return set_address(handle, index, static_cast<aclTensor*>(list->values[relative]), address, direction);
}

}  // namespace
}  // namespace moe::device

using namespace moe::device;

aclnnStatus aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Executor> object;
        MOE_DEVICE_TRY(need_executor(executor, &object));
        const std::lock_guard<std::mutex> lock(object->mutex);
        if (object->ran && !object->repeatable)
            return refuse(561000, Rule::repeatable, "executor", "it ran already", "the call right after phase 1",
                          object->about());
        object->repeatable = true;
        return 0;
    });
}

aclnnStatus aclDestroyAclOpExecutor(aclOpExecutor* executor) {
    return entry(MOE_HERE, [&]() -> Status {
        if (executor == nullptr) return refuse(561103, Rule::null_argument, "executor", "null", "an executor");
        if (withdraw<Executor>(executor) != nullptr) return 0;
        const Fate fate = fate_of(executor, Kind::executor);
        if (!fate.was_known)
            return refuse(561000, Rule::executor_unknown, "executor", fate.text, "an executor that is alive",
                          {&fate.made, executor, fate.number});
        // A run of a one-shot executor ends it.
        const bool ran = std::strncmp(fate.ended_by, "aclnn", 5) == 0;
        record(ran ? Rule::executor_spent : Rule::double_destroy, "executor", fate.text, "an executor that is alive",
               {&fate.made, executor, fate.number});
        return 0;
    });
}

#define MOE_ADDRESS_SETTERS(prefix)                                                                                    \
    aclnnStatus prefix##SetInputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor,             \
                                           void* addr) {                                                               \
        return entry(MOE_HERE, [&] { return set_address(executor, index, tensor, addr, Direction::input); });          \
    }                                                                                                                  \
    aclnnStatus prefix##SetOutputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor,            \
                                            void* addr) {                                                              \
        return entry(MOE_HERE, [&] { return set_address(executor, index, tensor, addr, Direction::output); });         \
    }                                                                                                                  \
    aclnnStatus prefix##SetTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {    \
        return entry(MOE_HERE, [&] { return set_address(executor, index, tensor, addr, Direction::any); });            \
    }                                                                                                                  \
    aclnnStatus prefix##SetDynamicInputTensorAddr(aclOpExecutor* executor, size_t irIndex, const size_t relativeIndex, \
                                                  aclTensorList* tensors, void* addr) {                                \
        return entry(MOE_HERE, [&] {                                                                                   \
            return set_list_address(executor, irIndex, relativeIndex, tensors, addr, Direction::input);                \
        });                                                                                                            \
    }                                                                                                                  \
    aclnnStatus prefix##SetDynamicOutputTensorAddr(aclOpExecutor* executor, size_t irIndex,                            \
                                                   const size_t relativeIndex, aclTensorList* tensors, void* addr) {   \
        return entry(MOE_HERE, [&] {                                                                                   \
            return set_list_address(executor, irIndex, relativeIndex, tensors, addr, Direction::output);               \
        });                                                                                                            \
    }                                                                                                                  \
    aclnnStatus prefix##SetDynamicTensorAddr(aclOpExecutor* executor, size_t irIndex, const size_t relativeIndex,      \
                                             aclTensorList* tensors, void* addr) {                                     \
        return entry(MOE_HERE, [&] {                                                                                   \
            return set_list_address(executor, irIndex, relativeIndex, tensors, addr, Direction::any);                  \
        });                                                                                                            \
    }
MOE_ADDRESS_SETTERS(acl)
MOE_ADDRESS_SETTERS(Acl)
