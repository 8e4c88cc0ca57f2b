/* Combines the outputs of two experts for three tokens, with a residual, and checks the result.
 *
 * The steps are the same for every operator of the C API: describe the tensors, plan, allocate the workspace, run. */
#include <stdio.h>
#include <stdlib.h>

#include <moe_native/moe_native.h>

enum { TOKENS = 3, EXPERTS_PER_TOKEN = 2, HIDDEN = 4 };

static int failed(const char* what) {
    const moe_error* error = moe_last_error();
    fprintf(stderr, "%s: %s (%d) in %s: %s\n", what, moe_status_name(error->status), error->status, error->op,
            error->message);
    return EXIT_FAILURE;
}

int main(void) {
    float rows[TOKENS * EXPERTS_PER_TOKEN][HIDDEN];
    float residual[TOKENS][HIDDEN];
    float scales[TOKENS][EXPERTS_PER_TOKEN] = {{0.75f, 0.25f}, {0.5f, 0.5f}, {1.0f, -1.0f}};
    int32_t index[TOKENS * EXPERTS_PER_TOKEN] = {5, 0, 1, 4, 2, 3}; /* row of (token, k), token by token */
    float out[TOKENS][HIDDEN];
    for (int r = 0; r < TOKENS * EXPERTS_PER_TOKEN; ++r)
        for (int h = 0; h < HIDDEN; ++h) rows[r][h] = (float)(10 * r + h);
    for (int t = 0; t < TOKENS; ++t)
        for (int h = 0; h < HIDDEN; ++h) residual[t][h] = (float)t;

    const int64_t rows_shape[] = {TOKENS * EXPERTS_PER_TOKEN, HIDDEN};
    const int64_t token_shape[] = {TOKENS, HIDDEN};
    const int64_t scales_shape[] = {TOKENS, EXPERTS_PER_TOKEN};
    const moe_tensor t_rows = moe_tensor_make(rows, MOE_FLOAT32, 2, rows_shape);
    const moe_tensor t_residual = moe_tensor_make(residual, MOE_FLOAT32, 2, token_shape);
    const moe_tensor t_scales = moe_tensor_make(scales, MOE_FLOAT32, 2, scales_shape);
    const moe_tensor t_index = moe_tensor_make(index, MOE_INT32, 1, rows_shape);
    moe_tensor t_out = moe_tensor_make(out, MOE_FLOAT32, 2, token_shape);

    const moe_finalize_routing_args args = {
        .expanded_permuted_rows = &t_rows,
        .skip1 = &t_residual,
        .scales = &t_scales,
        .expanded_src_to_dst_row = &t_index,
        .drop_pad_mode = 2,
        .k = 1,
        .out = &t_out,
    };
    moe_plan plan;
    if (moe_finalize_routing_plan(&args, &plan) != MOE_OK) return failed("plan");
    void* workspace = malloc(plan.workspace_size);
    if (workspace == NULL && plan.workspace_size > 0) return EXIT_FAILURE;
    const moe_status status = moe_finalize_routing_run(&args, &plan, workspace, plan.workspace_size, NULL);
    free(workspace);
    if (status != MOE_OK) return failed("run");

    for (int t = 0; t < TOKENS; ++t)
        for (int h = 0; h < HIDDEN; ++h) {
            float needed = residual[t][h];
            for (int k = 0; k < EXPERTS_PER_TOKEN; ++k)
                needed += scales[t][k] * rows[index[t * EXPERTS_PER_TOKEN + k]][h];
            if (out[t][h] != needed) {
                fprintf(stderr, "token %d, column %d: %g, needed %g\n", t, h, out[t][h], needed);
                return EXIT_FAILURE;
            }
        }
    printf("moe_native %s: combined %d tokens, as it should be\n", moe_version(), TOKENS);
    return EXIT_SUCCESS;
}
