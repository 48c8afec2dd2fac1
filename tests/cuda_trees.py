"""Made-up trees of files, as CUDA's installers leave them: for tests/test_cuda_start.py."""
from pathlib import Path

from backend.cuda_toolkit import Places
from command.hardware import Card, Driver

ROOT = Path(__file__).resolve().parent.parent
H100 = Driver(13000, (Card("NVIDIA H100", 90),))
CUDNN_8 = ("cudnn_ops_infer", "cudnn_ops_train", "cudnn_cnn_infer", "cudnn_cnn_train")
CUDNN_9 = ("cudnn_ops", "cudnn_cnn", "cudnn_graph")


def put(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def libraries(folder, *names, number=None):
    """lib<name>.so.<number> in a folder; without a number lib<name>.so."""
    for name in names:
        put(folder / f"lib{name}.so{'' if number is None else f'.{number}'}", name)


def compiler(path, top):
    """An nvcc that is a script and says where its toolkit lies."""
    put(path, f'#!/bin/sh\necho "#$ _HERE_=/x" >&2\necho "#$ TOP={top}" >&2\n').chmod(0o755)
    return path


def runtime(include, lib, version=13000):
    put(include / "cuda_runtime_api.h", f"#define CUDART_VERSION  {version}\n")
    put(include / "driver_types.h", "struct cudaDeviceProp { int integrated, major; };\n")
    put(include / "crt" / "host_config.h")
    libraries(lib, "cudart", number=version // 1000)
    put(lib / "libcudadevrt.a")


def cublas(include, lib, major=13):
    put(include / "cublas_v2.h")
    libraries(lib, "cublas", "cublasLt", number=major)


def curand(include, lib):
    put(include / "curand.h")
    libraries(lib, "curand", number=10)


def cudnn(include, lib, major=9):
    put(include / "cudnn.h", "enum cudnnStatus_t { CUDNN_STATUS_NOT_SUPPORTED = 3000 };\n")
    put(include / "cudnn_version.h", f"#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR 1\n")
    libraries(lib, "cudnn", *(CUDNN_9 if major >= 9 else CUDNN_8), number=major)


def nccl(include, lib):
    put(include / "nccl.h")
    libraries(lib, "nccl", number=2)


def toolkit(top, version=13000, with_cudnn=None, lib="lib64", include="include"):
    """A whole toolkit in one folder, perhaps with a cuDNN of some major version; its nvcc."""
    runtime(top / include, top / lib, version)
    cublas(top / include, top / lib, version // 1000)
    curand(top / include, top / lib)
    if with_cudnn:
        cudnn(top / include, top / lib, with_cudnn)
    return compiler(top / "bin" / "nvcc", top)


def places(root, **given):
    """The Places of a machine whose files all lie below `root`."""
    found = Places(nvcc_path=None, cache=root / "cache", site=(root / "site",), path="", root=root)
    found = found._replace(site=(*found.site, root / "usr/lib/python3/dist-packages"))
    return found._replace(**given)


# ------------------------------------------------- the layouts: each returns the nvcc that is meant
def wheels(root):
    """`pip install -r requirements/gpu.txt`."""
    nvidia = root / "site" / "nvidia"
    nvcc = toolkit(nvidia / "cu13", lib="lib")
    cudnn(nvidia / "cudnn" / "include", nvidia / "cudnn" / "lib")
    nccl(nvidia / "nccl" / "include", nvidia / "nccl" / "lib")
    for name in ("cudnn_cu13-9.28.1.4", "nccl_cu13-2.32.3"):
        (root / "site" / f"nvidia_{name}.dist-info").mkdir()
    return nvcc


def cuda_12_with_cudnn_8(root):
    """NVIDIA's archives, unpacked into /usr/local/cuda."""
    return toolkit(root / "usr/local/cuda", 12040, with_cudnn=8)


def cuda_12_with_cudnn_9(root):
    return toolkit(root / "usr/local/cuda", 12060, with_cudnn=9)


def cuda_12_with_the_wheel_of_cudnn_8(root):
    nvidia = root / "site" / "nvidia"
    cudnn(nvidia / "cudnn" / "include", nvidia / "cudnn" / "lib", 8)
    (root / "site" / "nvidia_cudnn_cu12-8.9.7.29.dist-info").mkdir()
    return toolkit(root / "usr/local/cuda", 12040)


def debians_packages(root):
    """nvidia-cuda-toolkit and nvidia-cudnn: nvcc is a script, the rest lies among the system's."""
    include, lib = root / "usr/include", root / "usr/lib/x86_64-linux-gnu"
    runtime(include, lib, 12000)
    cublas(include, lib, 12)
    curand(include, lib)
    cudnn(include, lib, 8)
    put(include / "stdlib.h")
    return compiler(root / "usr/bin/nvcc", root / "usr/lib/nvidia-cuda-toolkit")


def jittors_bundle(root):
    return toolkit(root / "cache/jtcuda/cuda12.2_cudnn8_linux", 12020, with_cudnn=8)


def pytorchs_wheels_beside_a_toolkit(root):
    """CUDA 13 of the system, Ubuntu's cuDNN 9, and PyTorch's libraries, without its nvcc."""
    nvidia = root / "site" / "nvidia"
    runtime(nvidia / "cu13" / "include", nvidia / "cu13" / "lib")
    cublas(nvidia / "cu13" / "include", nvidia / "cu13" / "lib")
    cudnn(nvidia / "cudnn" / "include", nvidia / "cudnn" / "lib")
    cudnn(root / "usr/include", root / "usr/lib/x86_64-linux-gnu")
    (root / "site" / "nvidia_cudnn_cu13-9.19.0.56.dist-info").mkdir()
    return toolkit(root / "usr/local/cuda")


def a_compilers_wheels_beside_pytorchs(root):
    """An environment that sees the system's packages: pip added what these lack, nvcc and crt."""
    system = root / "usr/lib/python3/dist-packages" / "nvidia"
    runtime(system / "cu13" / "include", system / "cu13" / "lib")
    (system / "cu13/include/crt/host_config.h").unlink()
    (system / "cu13/include/crt").rmdir()
    cublas(system / "cu13" / "include", system / "cu13" / "lib")
    curand(system / "cu13" / "include", system / "cu13" / "lib")
    cudnn(system / "cudnn" / "include", system / "cudnn" / "lib")
    top = root / "site" / "nvidia" / "cu13"
    put(top / "include" / "crt" / "host_config.h")
    return compiler(top / "bin" / "nvcc", top)


def ubuntus_cudnn_beside_a_toolkit(root):
    cudnn(root / "usr/include", root / "usr/lib/x86_64-linux-gnu")
    return toolkit(root / "usr/local/cuda")


def a_script_in_the_path(root):
    toolkit(root / "opt/cuda-13.0", with_cudnn=9)
    return compiler(root / "tools/nvcc", root / "opt/cuda-13.0/bin/..")


def a_link_in_the_path(root):
    nvcc = toolkit(root / "opt/cuda-13.0", with_cudnn=9)
    (root / "tools").mkdir()
    (root / "tools/nvcc").symlink_to(nvcc)
    return root / "tools/nvcc"


def conda(root):
    """Headers below targets/, libraries in lib/, cuDNN beside them."""
    top = root / "tools" / "environment"
    runtime(top / "targets/x86_64-linux/include", top / "lib", 12040)
    cublas(top / "targets/x86_64-linux/include", top / "lib", 12)
    curand(top / "targets/x86_64-linux/include", top / "lib")
    cudnn(top / "include", top / "lib", 9)
    put(top / "include" / "zlib.h")
    return compiler(top / "bin" / "nvcc", top)


LAYOUTS = (wheels, cuda_12_with_cudnn_8, cuda_12_with_cudnn_9, cuda_12_with_the_wheel_of_cudnn_8,
           debians_packages, jittors_bundle, pytorchs_wheels_beside_a_toolkit,
           a_compilers_wheels_beside_pytorchs, ubuntus_cudnn_beside_a_toolkit,
           a_script_in_the_path, a_link_in_the_path, conda)


def paths_of(root):
    """The PATH of those layouts that are found by it."""
    return f"{root / 'tools'}:{root / 'tools/environment/bin'}"


def remove(root, *patterns):
    """Delete the files below a folder that match."""
    found = [path for pattern in patterns for path in Path(root).rglob(pattern) if path.is_file()]
    assert found
    for path in found:
        path.unlink()
