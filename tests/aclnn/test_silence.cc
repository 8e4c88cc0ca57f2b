// Every operator, run rightly, finds nothing, in every mode.
#include <cstdio>
#include <memory>

#include "client.h"
#include "fuzz/operators.h"

using namespace client;

namespace {

// The arguments of a recipe on the device.
class Ingredients {
  public:
    explicit Ingredients(const fuzz::Recipe& recipe) {
        for (const fuzz::Spec& spec : recipe.operands) {
            memory_.push_back(spec.contents.empty() ? std::make_unique<Buffer>(spec.size())
                                                    : std::make_unique<Buffer>(spec.contents));
            const aclFormat format = spec.tiles.empty() ? ACL_FORMAT_ND : ACL_FORMAT_FRACTAL_NZ;
            tensors_.push_back(aclCreateTensor(spec.shape.data(), spec.shape.size(), spec.dtype, nullptr, 0, format,
                                               spec.storage().data(), spec.storage().size(), memory_.back()->data));
        }
        for (const fuzz::Argument& argument : recipe.arguments) {
            fuzz::Value value;
            value.integer = argument.integer;
            value.real = argument.real;
            if (argument.kind == fuzz::Argument::Kind::text) value.handle = argument.text;
            if (argument.kind == fuzz::Argument::Kind::tensor && argument.operand >= 0)
                value.handle = tensors_[static_cast<size_t>(argument.operand)];
            if (argument.kind == fuzz::Argument::Kind::array) {
                arrays_.push_back(aclCreateIntArray(argument.array.data(), argument.array.size()));
                value.handle = arrays_.back();
            }
            values.push_back(value);
        }
    }
    ~Ingredients() {
        for (const aclTensor* tensor : tensors_) CHECK(aclDestroyTensor(tensor) == 0);
        for (const aclIntArray* array : arrays_) CHECK(aclDestroyIntArray(array) == 0);
    }
    Ingredients(const Ingredients&) = delete;
    Ingredients& operator=(const Ingredients&) = delete;

    std::vector<fuzz::Value> values;

  private:
    std::vector<std::unique_ptr<Buffer>> memory_;
    std::vector<const aclTensor*> tensors_;
    std::vector<const aclIntArray*> arrays_;
};

}  // namespace

TEST_CASE("every operator is silent when its call is right, in every mode") {
    const std::vector<fuzz::Recipe> recipes = fuzz::make_recipes();
    Findings findings;
    size_t silent = 0;
    for (const fuzz::Operator& op : fuzz::operators) {
        CAPTURE(op.name);
        size_t calls = 0;
        for (const fuzz::Recipe& recipe : recipes) {
            if (recipe.op != &op || !recipe.right) continue;
            ++calls;
            for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
                const InMode in_mode(mode);
                {
                    Session session;
                    const Ingredients of(recipe);
                    uint64_t size = 0;
                    aclOpExecutor* executor = nullptr;
                    const aclnnStatus planned = op.plan(of.values.data(), &size, &executor);
                    CHECK(planned == (fuzz::has_kernel(op) ? 0 : 561003));
                    if (planned == 0) CHECK(run(session, op.run, size, executor) == 0);
                }
                CHECK(findings.rules(true) == (fuzz::has_kernel(op) ? Rules{} : Rules{"argument"}));
            }
        }
        CHECK(calls > 0);
        if (fuzz::has_kernel(op)) ++silent;
    }
    std::printf("operators: %zu, of which %zu have a kernel and are silent in every mode\n", std::size(fuzz::operators),
                silent);
}
