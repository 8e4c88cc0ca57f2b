// The numbers and types of the interface as C++ sees them: all of it is checked by the compiler.
#include <cstddef>
#include <memory>
#include <type_traits>

#include "every_header.h"

extern "C" aclnnStatus aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* srcTensor, const int dstFormat,
                                                                const int additionalDtype, int64_t** dstShape,
                                                                uint64_t* dstShapeSize, int* actualFormat);

namespace {

// --- Functions -----------------------------------------------------------------------------------------------------
using T = const aclTensor*;
using M = aclTensor*;
using A = const aclIntArray*;

#define FUNCTION(name, result, parameters) static_assert(std::is_same_v<decltype(&name), result(*) parameters>, #name);
#define OPERATOR(name, parameters)                                   \
    FUNCTION(aclnn##name##GetWorkspaceSize, aclnnStatus, parameters) \
    FUNCTION(aclnn##name, aclnnStatus, (void*, uint64_t, aclOpExecutor*, aclrtStream))
#include "functions.inc"
#undef FUNCTION
#undef OPERATOR

// --- Types ---------------------------------------------------------------------------------------------------------
static_assert(std::is_same_v<aclError, int>);
static_assert(std::is_same_v<aclnnStatus, int32_t>);
static_assert(std::is_same_v<aclFloat16, uint16_t>);
static_assert(std::is_same_v<aclrtStream, void*>);
static_assert(std::is_same_v<aclrtEvent, void*>);
static_assert(std::is_same_v<aclrtContext, void*>);
static_assert(OK == 0);
template <class Enum>
constexpr bool is_int_enum = std::is_enum_v<Enum> && !std::is_convertible_v<int, Enum> &&
                             std::is_convertible_v<Enum, int> && sizeof(Enum) == sizeof(int);
static_assert(is_int_enum<aclDataType> && is_int_enum<aclFormat> && is_int_enum<aclrtMemcpyKind> &&
              is_int_enum<aclrtMemMallocPolicy> && is_int_enum<aclrtMemAttr> && is_int_enum<aclrtMemLocationType> &&
              is_int_enum<aclrtRunMode> && is_int_enum<aclrtStreamStatus> && is_int_enum<aclrtEventStatus> &&
              is_int_enum<aclrtEventRecordedStatus> && is_int_enum<aclSysParamOpt> && is_int_enum<aclrtLastErrLevel> &&
              is_int_enum<aclCANNPackageName> && is_int_enum<moe_aclnn_mode> && is_int_enum<moe_aclnn_option> &&
              is_int_enum<moe_aclnn_severity>);

static_assert(sizeof(aclrtMemLocation) == 8);
static_assert(offsetof(aclrtMemLocation, id) == 0 && offsetof(aclrtMemLocation, type) == 4);
static_assert(sizeof(aclrtPtrAttributes) == 28);
static_assert(offsetof(aclrtPtrAttributes, location) == 0 && offsetof(aclrtPtrAttributes, pageSize) == 8 &&
              offsetof(aclrtPtrAttributes, rsv) == 12);
static_assert(sizeof(aclCANNPackageVersion) == 128 + 4 * 64 + 128);
static_assert(offsetof(aclCANNPackageVersion, version) == 0 && offsetof(aclCANNPackageVersion, majorVersion) == 128 &&
              offsetof(aclCANNPackageVersion, minorVersion) == 192 &&
              offsetof(aclCANNPackageVersion, releaseVersion) == 256 &&
              offsetof(aclCANNPackageVersion, patchVersion) == 320 && offsetof(aclCANNPackageVersion, reserved) == 384);

// Owners that clients write.
static_assert(std::is_constructible_v<std::unique_ptr<void, aclError (*)(void*)>, void*, decltype(&aclrtFree)>);
static_assert(std::is_constructible_v<std::unique_ptr<aclTensor, aclnnStatus (*)(const aclTensor*)>, aclTensor*,
                                      decltype(&aclDestroyTensor)>);

// --- Numbers -------------------------------------------------------------------------------------------------------
static_assert(ACL_DT_UNDEFINED == -1 && aclDataType::ACL_FLOAT == 0 && ACL_FLOAT16 == 1 && ACL_INT8 == 2);
static_assert(ACL_INT32 == 3 && ACL_UINT8 == 4 && ACL_INT16 == 6 && ACL_UINT16 == 7 && ACL_UINT32 == 8);
static_assert(ACL_INT64 == 9 && ACL_UINT64 == 10 && ACL_DOUBLE == 11 && ACL_BOOL == 12 && ACL_STRING == 13);
static_assert(ACL_COMPLEX64 == 16 && ACL_COMPLEX128 == 17 && ACL_BF16 == 27 && ACL_INT4 == 29 && ACL_UINT1 == 30);
static_assert(ACL_COMPLEX32 == 33 && ACL_HIFLOAT8 == 34 && ACL_FLOAT8_E5M2 == 35 && ACL_FLOAT8_E4M3FN == 36);
static_assert(ACL_FLOAT8_E8M0 == 37 && ACL_FLOAT6_E3M2 == 38 && ACL_FLOAT6_E2M3 == 39 && ACL_FLOAT4_E2M1 == 40);
static_assert(ACL_FLOAT4_E1M2 == 41);

static_assert(ACL_FORMAT_UNDEFINED == -1 && ACL_FORMAT_NCHW == 0 && ACL_FORMAT_NHWC == 1);
static_assert(aclFormat::ACL_FORMAT_ND == 2 && ACL_FORMAT_NC1HWC0 == 3 && ACL_FORMAT_FRACTAL_Z == 4);
static_assert(ACL_FORMAT_NC1HWC0_C04 == 12 && ACL_FORMAT_HWCN == 16 && ACL_FORMAT_NDHWC == 27);
static_assert(ACL_FORMAT_FRACTAL_NZ == 29 && ACL_FORMAT_NCDHW == 30 && ACL_FORMAT_NDC1HWC0 == 32);
static_assert(ACL_FRACTAL_Z_3D == 33 && ACL_FORMAT_NC == 35 && ACL_FORMAT_NCL == 47);
static_assert(ACL_FORMAT_FRACTAL_NZ_C0_16 == 50 && ACL_FORMAT_FRACTAL_NZ_C0_32 == 51);
static_assert(ACL_FORMAT_FRACTAL_NZ_C0_2 == 52 && ACL_FORMAT_FRACTAL_NZ_C0_4 == 53);
static_assert(ACL_FORMAT_FRACTAL_NZ_C0_8 == 54);

static_assert(ACL_MEMCPY_HOST_TO_HOST == 0 && ACL_MEMCPY_HOST_TO_DEVICE == 1 && ACL_MEMCPY_DEVICE_TO_HOST == 2);
static_assert(ACL_MEMCPY_DEVICE_TO_DEVICE == 3 && ACL_MEMCPY_DEFAULT == 4 && ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE == 5);
static_assert(ACL_MEMCPY_INNER_DEVICE_TO_DEVICE == 6 && ACL_MEMCPY_INTER_DEVICE_TO_DEVICE == 7);

static_assert(ACL_MEM_MALLOC_HUGE_FIRST == 0 && ACL_MEM_MALLOC_HUGE_ONLY == 1 && ACL_MEM_MALLOC_NORMAL_ONLY == 2);
static_assert(ACL_MEM_MALLOC_HUGE_FIRST_P2P == 3 && ACL_MEM_MALLOC_HUGE_ONLY_P2P == 4);
static_assert(ACL_MEM_MALLOC_NORMAL_ONLY_P2P == 5 && ACL_MEM_MALLOC_HUGE1G_ONLY == 6);
static_assert(ACL_MEM_MALLOC_HUGE1G_ONLY_P2P == 7 && ACL_MEM_TYPE_LOW_BAND_WIDTH == 0x100);
static_assert(ACL_MEM_TYPE_HIGH_BAND_WIDTH == 0x1000 && ACL_MEM_ACCESS_USER_SPACE_READONLY == 0x100000);

static_assert(ACL_DEVICE == 0 && ACL_HOST == 1);
static_assert(ACL_STREAM_STATUS_COMPLETE == 0 && ACL_STREAM_STATUS_NOT_READY == 1);
static_assert(ACL_STREAM_STATUS_RESERVED == 0xFFFF);
static_assert(ACL_EVENT_RECORDED_STATUS_NOT_READY == 0 && ACL_EVENT_RECORDED_STATUS_COMPLETE == 1);
static_assert(ACL_EVENT_STATUS_COMPLETE == 0 && ACL_EVENT_STATUS_NOT_READY == 1);
static_assert(ACL_EVENT_SYNC == 1 && ACL_EVENT_CAPTURE_STREAM_PROGRESS == 2 && ACL_EVENT_TIME_LINE == 8);
static_assert(ACL_EVENT_EXTERNAL == 0x20 && ACL_STREAM_FAST_LAUNCH == 1 && ACL_STREAM_FAST_SYNC == 2);
static_assert(ACL_DDR_MEM == 0 && ACL_HBM_MEM == 1);
static_assert(ACL_MEM_LOCATION_TYPE_HOST == 0 && ACL_MEM_LOCATION_TYPE_DEVICE == 1);
static_assert(ACL_MEM_LOCATION_TYPE_UNREGISTERED == 2 && ACL_MEM_LOCATION_TYPE_MANAGED == 3);
static_assert(ACL_MEM_LOCATION_TYPE_HOST_NUMA == 4);
static_assert(ACL_OPT_DETERMINISTIC == 0 && ACL_OPT_ENABLE_DEBUG_KERNEL == 1 && ACL_OPT_STRONG_CONSISTENCY == 2);
static_assert(ACL_OPT_KERNEL_EARLY_START == 3 && ACL_RT_THREAD_LEVEL == 0);
static_assert(ACL_PKG_NAME_CANN == 0 && ACL_PKG_NAME_RUNTIME == 1 && ACL_PKG_NAME_COMPILER == 2);
static_assert(ACL_PKG_NAME_HCCL == 3 && ACL_PKG_NAME_TOOLKIT == 4 && ACL_PKG_NAME_OPP == 5);
static_assert(ACL_PKG_NAME_OPP_KERNEL == 6 && ACL_PKG_NAME_DRIVER == 7);
static_assert(ACL_MAJOR_VERSION == 1 && ACL_MINOR_VERSION == 13 && ACL_PATCH_VERSION == 0);

static_assert(ACL_SUCCESS == 0 && ACL_ERROR_NONE == 0 && ACL_ERROR_INVALID_PARAM == 100000);
static_assert(ACL_ERROR_UNINITIALIZE == 100001 && ACL_ERROR_REPEAT_INITIALIZE == 100002);
static_assert(ACL_ERROR_INVALID_FILE == 100003 && ACL_ERROR_WRITE_FILE == 100004);
static_assert(ACL_ERROR_INVALID_FILE_SIZE == 100005 && ACL_ERROR_OP_NOT_FOUND == 100024);
static_assert(ACL_ERROR_UNSUPPORTED_DATA_TYPE == 100026 && ACL_ERROR_FORMAT_NOT_MATCH == 100027);
static_assert(ACL_ERROR_REPEAT_FINALIZE == 100037 && ACL_ERROR_COMPILING_STUB_MODE == 100039);
static_assert(ACL_ERROR_INVALID_OPP_PATH == 148049 && ACL_ERROR_BAD_ALLOC == 200000);
static_assert(ACL_ERROR_API_NOT_SUPPORT == 200001 && ACL_ERROR_INVALID_DEVICE == 200002);
static_assert(ACL_ERROR_MEMORY_ADDRESS_UNALIGNED == 200003 && ACL_ERROR_INVALID_RESOURCE_HANDLE == 200005);
static_assert(ACL_ERROR_FEATURE_UNSUPPORTED == 200006 && ACL_ERROR_STORAGE_OVER_LIMIT == 300000);
static_assert(ACL_ERROR_INTERNAL_ERROR == 500000 && ACL_ERROR_FAILURE == 500001 && ACL_ERROR_GE_FAILURE == 500002);
static_assert(ACL_ERROR_RT_FAILURE == 500003 && ACL_ERROR_DRV_FAILURE == 500004);
static_assert(ACL_ERROR_PROFILING_FAILURE == 500005);

static_assert(ACL_ERROR_RT_PARAM_INVALID == 107000 && ACL_ERROR_RT_INVALID_DEVICEID == 107001);
static_assert(ACL_ERROR_RT_CONTEXT_NULL == 107002 && ACL_ERROR_RT_STREAM_CONTEXT == 107003);
static_assert(ACL_ERROR_RT_ADDR_UNALIGNED == 107008 && ACL_ERROR_RT_INVALID_MEMORY_TYPE == 107016);
static_assert(ACL_ERROR_RT_INVALID_HANDLE == 107017 && ACL_ERROR_RT_INVALID_MALLOC_TYPE == 107018);
static_assert(ACL_ERROR_RT_WAIT_TIMEOUT == 107019 && ACL_ERROR_RT_TASK_TIMEOUT == 107020);
static_assert(ACL_ERROR_RT_SYSPARAMOPT_NOT_SET == 107021 && ACL_ERROR_RT_FEATURE_NOT_SUPPORT == 207000);
static_assert(ACL_ERROR_RT_MEMORY_ALLOCATION == 207001 && ACL_ERROR_RT_MEMORY_FREE == 207002);
static_assert(ACL_ERROR_RT_AICORE_OVER_FLOW == 207003 && ACL_ERROR_RT_NO_DEVICE == 207004);
static_assert(ACL_ERROR_RT_RESOURCE_ALLOC_FAIL == 207005 && ACL_ERROR_RT_DEVICE_OOM == 207018);
static_assert(ACL_ERROR_RT_INTERNAL_ERROR == 507000 && ACL_ERROR_RT_MODEL_EXECUTE == 507011);
static_assert(ACL_ERROR_RT_AICORE_TIMEOUT == 507014 && ACL_ERROR_RT_AICORE_EXCEPTION == 507015);
static_assert(ACL_ERROR_RT_AICPU_EXCEPTION == 507018 && ACL_ERROR_RT_DEV_SETUP_ERROR == 507033);
static_assert(ACL_ERROR_RT_VECTOR_CORE_TIMEOUT == 507034 && ACL_ERROR_RT_VECTOR_CORE_EXCEPTION == 507035);
static_assert(ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION == 507036 && ACL_ERROR_RT_STREAM_SYNC_TIMEOUT == 507046);
static_assert(ACL_ERROR_RT_DEVICE_MEM_ERROR == 507053 && ACL_ERROR_RT_DRV_INTERNAL_ERROR == 507899);

static_assert(MOE_ACLNN_COMPAT == 0 && MOE_ACLNN_REAL == 1 && MOE_ACLNN_STRICT == 2);

}  // namespace
