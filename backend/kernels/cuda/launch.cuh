// LAUNCH(kernel, blocks, threads)(arguments...), by nvcc; tests/cuda_emulator.h has its own.
#pragma once

#ifndef LAUNCH
#define LAUNCH(kernel, blocks, threads) kernel<<<blocks, threads>>>
#endif
