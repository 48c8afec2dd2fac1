/* A CUDA runtime without a device: memory is host memory, kernels are counted and do not run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cuda_runtime_api.h>
#include "counts.h"

typedef cudaError_t Error;
enum { NAME = 200, ROWS = 8192, BLOCKS = 65536, ALIGNMENT = 512 };

/* ------------------------------------------------------------------------------------- counts */
static struct Row { const char *kind; char name[NAME]; long number; size_t bytes; } rows[ROWS];
static int row_count;

void stand_in_count(const char *kind, const char *name, size_t bytes) {
    int k = 0;
    while (k < row_count && (strcmp(rows[k].kind, kind) || strncmp(rows[k].name, name, NAME - 1)))
        k++;
    if (k == ROWS)
        abort();
    if (k == row_count) {
        rows[row_count++].kind = kind;
        snprintf(rows[k].name, NAME, "%s", name);
    }
    rows[k].number++;
    rows[k].bytes += bytes;
}

/* ------------------------------------------------------------------------------------- memory */
enum Place { DEVICE, PINNED };
static struct Block { char *start; size_t size; enum Place place; } blocks[BLOCKS];
static int block_count;
static size_t device_bytes, peak_bytes;

static struct Block *block_of(const void *pointer) {
    for (int k = block_count - 1; k >= 0; k--)
        if ((char *)pointer >= blocks[k].start && (char *)pointer < blocks[k].start + blocks[k].size)
            return &blocks[k];
    return NULL;
}

static Error allocate(void **pointer, size_t size, enum Place place, const char *name) {
    *pointer = NULL;
    size = (size + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    if (block_count == BLOCKS || posix_memalign(pointer, ALIGNMENT, size))
        return cudaErrorMemoryAllocation;
    if (size < 1 << 16) /* larger ones are the kernel's fresh pages, zero unless freed before */
        memset(*pointer, 0, size);
    blocks[block_count++] = (struct Block){*pointer, size, place};
    if (place == DEVICE)
        device_bytes += size;
    if (device_bytes > peak_bytes)
        peak_bytes = device_bytes;
    stand_in_count("allocate", name, size);
    return cudaSuccess;
}

static Error release(void *pointer, const char *name) {
    if (!pointer)
        return cudaSuccess;
    struct Block *block = block_of(pointer);
    if (!block)
        return cudaErrorInvalidValue;
    if (block->place == DEVICE)
        device_bytes -= block->size;
    stand_in_count("free", name, block->size);
    free(block->start);
    *block = blocks[--block_count];
    return cudaSuccess;
}

Error cudaMalloc(void **p, size_t n) { return allocate(p, n, DEVICE, "cudaMalloc"); }
Error cudaMallocManaged(void **p, size_t n, unsigned flags) {
    return allocate(p, n, DEVICE, "cudaMallocManaged");
}
Error cudaMallocAsync(void **p, size_t n, cudaStream_t s) {
    return allocate(p, n, DEVICE, "cudaMallocAsync");
}
Error cudaMallocHost(void **p, size_t n) { return allocate(p, n, PINNED, "cudaMallocHost"); }
Error cudaHostAlloc(void **p, size_t n, unsigned flags) {
    return allocate(p, n, PINNED, "cudaHostAlloc");
}
Error cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
    *device = host;
    return cudaSuccess;
}
Error cudaFree(void *p) { return release(p, "cudaFree"); }
Error cudaFreeHost(void *p) { return release(p, "cudaFreeHost"); }
Error cudaFreeAsync(void *p, cudaStream_t s) { return release(p, "cudaFreeAsync"); }

/* ------------------------------------------------------------------------------------- copies */
static char letter(const void *pointer, int said_device) {
    struct Block *block = block_of(pointer);
    return said_device || (block && block->place == DEVICE) ? 'D' : 'H';
}

/* Named 'H2D', 'D2H', ...; ' async' where the host goes on; ' pageable' where it cannot after all. */
static Error copy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, int async) {
    char name[NAME];
    char source = letter(from, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
    char target = letter(to, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice);
    int pageable = (source == 'H' && !block_of(from)) || (target == 'H' && !block_of(to));
    snprintf(name, NAME, "%c2%c%s%s", source, target, async ? " async" : "",
             async && pageable ? " pageable" : "");
    stand_in_count("copy", name, n);
    memmove(to, from, n);
    return cudaSuccess;
}

Error cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
    return copy(to, from, n, kind, 0);
}
Error cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                      cudaStream_t s) {
    return copy(to, from, n, kind, 1);
}
Error cudaMemset(void *p, int value, size_t n) {
    stand_in_count("set", "cudaMemset", n);
    memset(p, value, n);
    return cudaSuccess;
}
Error cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s) {
    stand_in_count("set", "cudaMemsetAsync", n);
    memset(p, value, n);
    return cudaSuccess;
}

/* -------------------------------------------------------------------------- waits and streams */
static Error wait_for(const char *name) {
    stand_in_count("wait", name, 0);
    return cudaSuccess;
}
Error cudaDeviceSynchronize(void) { return wait_for("cudaDeviceSynchronize"); }
Error cudaStreamSynchronize(cudaStream_t s) { return wait_for("cudaStreamSynchronize"); }
Error cudaEventSynchronize(cudaEvent_t e) { return wait_for("cudaEventSynchronize"); }

static int something;
Error cudaStreamCreate(cudaStream_t *s) { *s = (cudaStream_t)&something; return cudaSuccess; }
Error cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { return cudaStreamCreate(s); }
Error cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    return cudaStreamCreate(s);
}
Error cudaEventCreate(cudaEvent_t *e) { *e = (cudaEvent_t)&something; return cudaSuccess; }
Error cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { return cudaEventCreate(e); }
Error cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
Error cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------------- device */
static int current;
Error cudaGetDeviceCount(int *n) {
    const char *devices = getenv("STAND_IN_DEVICES");
    *n = devices ? atoi(devices) : 1;
    return cudaSuccess;
}
Error cudaSetDevice(int device) { current = device; return cudaSuccess; }
Error cudaGetDevice(int *n) { *n = current; return cudaSuccess; }
Error cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
Error cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
Error cudaMemGetInfo(size_t *available, size_t *total) {
    *total = 80ull << 30;
    *available = *total - device_bytes;
    return cudaSuccess;
}
Error cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) { /* an H100's */
    memset(p, 0, sizeof *p);
    strcpy(p->name, "stand-in");
    p->totalGlobalMem = 80ull << 30;
    p->sharedMemPerBlock = 49152;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = 9;
    p->multiProcessorCount = 132;
    return cudaSuccess;
}
Error cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9
           : attribute == cudaDevAttrMultiProcessorCount ? 132
           : attribute == cudaDevAttrMaxThreadsPerBlock ? 1024
           : attribute == cudaDevAttrMaxGridDimX ? 2147483647
           : attribute == cudaDevAttrMaxSharedMemoryPerBlock ? 49152 : 0;
    return cudaSuccess;
}
Error cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *pointer) {
    struct Block *block = block_of(pointer);
    memset(a, 0, sizeof *a);
    a->type = !block ? cudaMemoryTypeUnregistered
            : block->place == DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    a->devicePointer = a->hostPointer = block ? (void *)pointer : NULL;
    return cudaSuccess;
}
static Error last_error;
Error cudaPeekAtLastError(void) { return last_error; }
Error cudaGetLastError(void) {
    Error error = last_error;
    last_error = cudaSuccess;
    return error;
}
const char *cudaGetErrorString(Error error) { return error ? "the stand-in refused" : "no error"; }
const char *cudaGetErrorName(Error error) { return cudaGetErrorString(error); }

/* ------------------------------------------------------------------------------------ kernels */
static struct Function { const void *host; char name[NAME]; } *functions;
static int function_count;
static struct { dim3 grid, block; size_t shared; cudaStream_t stream; } pushed;

void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
char __cudaInitModule(void **handle) { return 1; }
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name,
                            int thread_limit, void *tid, void *bid, void *block, void *grid,
                            int *warp) {
    functions = realloc(functions, (function_count + 1) * sizeof *functions);
    functions[function_count].host = host;
    snprintf(functions[function_count++].name, NAME, "%s", device);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}
Error __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared;
    *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}
/* A device refuses what a grid or a block cannot be; so does this. */
Error cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                       cudaStream_t stream) {
    size_t threads = (size_t)block.x * block.y * block.z;
    if (!threads || threads > 1024 || block.z > 64 || !grid.x || grid.x > 2147483647u || !grid.y
            || grid.y > 65535 || !grid.z || grid.z > 65535 || shared > 49152) {
        stand_in_count("refused", "a launch with an impossible grid, block or shared memory", 0);
        return last_error = cudaErrorInvalidConfiguration;
    }
    for (int k = function_count - 1; k >= 0; k--)
        if (functions[k].host == host) {
            stand_in_count("launch", functions[k].name, 0);
            return cudaSuccess;
        }
    return last_error = cudaErrorInvalidDeviceFunction;
}
Error __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
    *kernel = (cudaKernel_t)host;
    return cudaSuccess;
}
Error __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                         size_t shared, cudaStream_t stream) {
    return cudaLaunchKernel((const void *)kernel, grid, block, arguments, shared, stream);
}
Error cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *host, void **arguments) {
    return cudaLaunchKernel(host, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes,
                            c->stream);
}
Error cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *host) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->ptxVersion = attributes->binaryVersion = 90;
    return cudaSuccess;
}
Error cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *host, int threads,
                                                    size_t shared) {
    *n = 2;
    return cudaSuccess;
}
Error cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *host, int threads,
                                                             size_t shared, unsigned flags) {
    *n = 2;
    return cudaSuccess;
}

/* ------------------------------------------------------------------------- asked by the tests */
void stand_in_reset(void) {
    row_count = 0;
    memset(rows, 0, sizeof rows);
    peak_bytes = device_bytes;
}
size_t stand_in_peak(void) { return peak_bytes; } /* bytes of device memory, since the reset */
/* Lines of 'kind \t name \t number \t bytes'; valid until the next call. */
const char *stand_in_counts(void) {
    static char text[ROWS * (NAME + 64)];
    char *end = text;
    *end = 0;
    for (int k = 0; k < row_count; k++)
        end += sprintf(end, "%s\t%s\t%ld\t%zu\n", rows[k].kind, rows[k].name, rows[k].number,
                       rows[k].bytes);
    return text;
}
