/* cuRAND without a device. */
#include <curand.h>
#include "counts.h"

curandStatus_t curandCreateGenerator(curandGenerator_t *generator, curandRngType_t type) {
    static int something;
    *generator = (curandGenerator_t)&something;
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateNormal(curandGenerator_t g, float *p, size_t n, float mean,
                                    float deviation) {
    stand_in_count("library", "random numbers, normal", 4 * n);
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateUniform(curandGenerator_t g, float *p, size_t n) {
    stand_in_count("library", "random numbers, uniform", 4 * n);
    return CURAND_STATUS_SUCCESS;
}
