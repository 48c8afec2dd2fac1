"""The stand-in counts what a program asks of the device, and refuses what a card would refuse."""
import json
import subprocess
import sys

import pytest

PROGRAM = r"""
#include <cuda_runtime.h>
__global__ void double_it(float* x) { x[threadIdx.x] *= 2; }
extern "C" int work() {
    float pageable[1024], *pinned, *device;
    cudaHostAlloc((void**)&pinned, 4096, 0);
    cudaMalloc((void**)&device, 4096);
    cudaMemcpyAsync(device, pinned, 4096, cudaMemcpyHostToDevice, 0);
    cudaMemcpyAsync(device, pageable, 4096, cudaMemcpyHostToDevice, 0);
    double_it<<<2, 512>>>(device);
    double_it<<<1, 1024>>>(device);
    cudaMemcpy(pageable, device, 4096, cudaMemcpyDefault);
    cudaFree(device);
    double_it<<<1, 2048>>>(device);
    return cudaGetLastError();
}
"""
READ = """
import ctypes, json, sys
program = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
runtime = ctypes.CDLL(None)
runtime.stand_in_counts.restype, runtime.stand_in_peak.restype = ctypes.c_char_p, ctypes.c_size_t
error = program.work()
print(json.dumps([error, runtime.stand_in_counts().decode(), runtime.stand_in_peak()]))
"""


@pytest.mark.parametrize("layout", ["wheels", "toolkit"])
def test_what_a_program_asks_for_is_counted(gate, tmp_path, layout):
    top = gate.toolkit if layout == "toolkit" else gate.site / "nvidia" / "cu13"
    if not top.is_dir():
        pytest.skip("Debian's compiler is not installed: no apt-get")
    (tmp_path / "program.cu").write_text(PROGRAM)
    lib = next(path for path in (top / "lib64", top / "lib") if path.is_dir())
    runtime, = lib.glob("libcudart.so.*[0-9]")
    program = tmp_path / "program.so"
    subprocess.run([top / "bin" / "nvcc", "--cudart=none", "-w", "-Xcompiler", "-fPIC", "-shared",
                    tmp_path / "program.cu", "-Xlinker", runtime, "-o", program], check=True)
    done = subprocess.run([sys.executable, "-c", READ, program], text=True,
                          env={"LD_LIBRARY_PATH": str(lib)}, capture_output=True, check=True)
    error, counts, peak = json.loads(done.stdout)
    rows = {tuple(line.split("\t")[:2]): line.split("\t")[2:] for line in counts.splitlines()}
    launches = [int(row[0]) for (kind, name), row in rows.items()
                if kind == "launch" and "double_it" in name]
    assert launches == [2]
    assert rows["refused", "a launch with an impossible grid, block or shared memory"][0] == "1"
    copies = {name: row for (kind, name), row in rows.items() if kind == "copy"}
    assert copies == {"H2D async": ["1", "4096"], "H2D async pageable": ["1", "4096"],
                      "D2H": ["1", "4096"]}
    assert 4096 <= peak < 8192
    assert error == 9  # cudaErrorInvalidConfiguration
