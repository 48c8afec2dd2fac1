/* cuDNN without a device: handles, one algorithm, no workspace; convolutions are counted. */
#include <string.h>
#include <cudnn.h>
#include "counts.h"

typedef cudnnHandle_t Handle;
typedef cudnnTensorDescriptor_t Tensor;
typedef cudnnFilterDescriptor_t Filter;
typedef cudnnConvolutionDescriptor_t Convolution;
typedef cudnnStatus_t Status;

static Status done(const char *name) {
    stand_in_count("library", name, 0);
    return CUDNN_STATUS_SUCCESS;
}

Status cudnnCreate(Handle *handle) {
    static int something;
    *handle = (Handle)&something;
    return CUDNN_STATUS_SUCCESS;
}
size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
const char *cudnnGetErrorString(Status status) { return "the stand-in's"; }

/* One of the three directions of a convolution: operands a and b, result c. */
#define DIRECTION(WORKSPACE, FIND, RUN, NAME, A, B, C, ALGORITHM, FOUND)                           \
    Status WORKSPACE(Handle h, const A a, const B b, const Convolution v, const C c,               \
                     ALGORITHM algorithm, size_t *size) {                                          \
        *size = 0;                                                                                 \
        return CUDNN_STATUS_SUCCESS;                                                               \
    }                                                                                              \
    Status FIND(Handle h, const A a, const void *x, const B b, const void *y, const Convolution v, \
                const C c, void *z, const int wanted, int *count, FOUND *found, void *workspace,   \
                size_t size) {                                                                     \
        *count = 1;                                                                                \
        memset(found, 0, sizeof *found);                                                           \
        found->algo = 1;                                                                           \
        return done("find an algorithm: " NAME);                                                   \
    }                                                                                              \
    Status RUN(Handle h, const void *alpha, const A a, const void *x, const B b, const void *y,    \
               const Convolution v, ALGORITHM algorithm, void *workspace, size_t size,             \
               const void *beta, const C c, void *z) {                                             \
        return done(NAME);                                                                         \
    }

DIRECTION(cudnnGetConvolutionForwardWorkspaceSize, cudnnFindConvolutionForwardAlgorithmEx,
          cudnnConvolutionForward, "convolution", Tensor, Filter, Tensor,
          cudnnConvolutionFwdAlgo_t, cudnnConvolutionFwdAlgoPerf_t)
DIRECTION(cudnnGetConvolutionBackwardDataWorkspaceSize,
          cudnnFindConvolutionBackwardDataAlgorithmEx, cudnnConvolutionBackwardData,
          "convolution: gradient of the input", Filter, Tensor, Tensor,
          cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdDataAlgoPerf_t)
DIRECTION(cudnnGetConvolutionBackwardFilterWorkspaceSize,
          cudnnFindConvolutionBackwardFilterAlgorithmEx, cudnnConvolutionBackwardFilter,
          "convolution: gradient of the weight", Tensor, Tensor, Filter,
          cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionBwdFilterAlgoPerf_t)
