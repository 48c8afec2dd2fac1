"""Our CUDA kernels on a GPU, beside Jittor's operators."""


def test_each_kernel_computes_what_jittors_operators_do():
    from backend.kernel_check import KERNEL_CHECKS, check_kernels
    assert check_kernels() == dict.fromkeys(KERNEL_CHECKS, "")
