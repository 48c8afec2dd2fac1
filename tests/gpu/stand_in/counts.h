/* What the stand-in was asked to do.  The table lies in the CUDA runtime's stand-in. */
#pragma once
#include <stddef.h>

/* kind: "launch" (a kernel), "library" (a call that would launch kernels of NVIDIA's),
   "copy", "wait", "set" (memory), "allocate", "free". */
void stand_in_count(const char *kind, const char *name, size_t bytes);
