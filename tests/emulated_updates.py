"""The kernels of a training step's end in Jittor on the CPU, through tests/cuda_emulator.h."""
import ctypes

from emulated_cuda import run_emulated


class FakeRuntime:
    """What backend.cuda_updates.Slot asks of CUDA's runtime library.

    An event is a number in memory: 1 once it has been recorded.
    """

    def __init__(self):
        self.kept, self.last_error = [], 0

    def _give(self, pointer, numbers):
        self.kept.append((ctypes.c_double * numbers)())
        pointer._obj.value = ctypes.addressof(self.kept[-1])
        return 0

    def cudaHostAlloc(self, pointer, size, flags):
        return self._give(pointer, size.value // 8)

    def cudaEventCreateWithFlags(self, pointer, flags):
        return self._give(pointer, 1)

    def cudaEventSynchronize(self, event):
        return 0 if ctypes.c_longlong.from_address(event.value).value == 1 else 600

    def cudaGetLastError(self):
        error, self.last_error = self.last_error, 0
        return error


def use_updates(monkeypatch, kind):
    """Let optimisers be those of a GPU.  kind: "composed" operators, or "kernels"."""
    from backend import cuda_updates, device_optimizer, optimizers
    from backend.updates import Composed
    monkeypatch.setattr(optimizers, "decides_on_device", lambda: True)
    monkeypatch.setattr(cuda_updates, "load_runtime", FakeRuntime)
    monkeypatch.setattr(cuda_updates, "cuda_code", run_emulated)
    make = {"composed": Composed, "kernels": cuda_updates.Kernels}[kind]
    monkeypatch.setattr(device_optimizer, "build_updates", lambda _: make())
