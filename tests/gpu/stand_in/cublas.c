/* cuBLAS without a device. */
#include <cublas_v2.h>

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    static int something;
    *handle = (cublasHandle_t)&something;
    return CUBLAS_STATUS_SUCCESS;
}
