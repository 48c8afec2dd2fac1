/* The driver's library (libcuda.so.1) as it answers where there is an H100. */
#include <stdio.h>
#include <stdlib.h>
#include <cuda.h>

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) {
    const char *devices = getenv("STAND_IN_DEVICES");
    *count = devices ? atoi(devices) : 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice *device, int number) { *device = number; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    snprintf(name, size, "stand-in");
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
           : attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 132 : 0;
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    *bytes = 80ull << 30;
    return CUDA_SUCCESS;
}
