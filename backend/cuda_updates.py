"""The end of a training step by CUDA kernels (kernels/cuda/update.cuh).

Importing this module imports Jittor.
"""
import ctypes
import itertools

from backend.cuda_operators import cuda_code
from backend.start import jt
from backend.updates import LARGEST, Reading

TENSORS, CHUNK = 64, 1024  # a launch's tensors and a block's elements, as in the header


# ------------------------------------------------------------------------------ what a kernel says
def load_runtime():
    """CUDA's runtime library, which Jittor has loaded for all."""
    return ctypes.CDLL(None)


class Slot:
    """Memory of the host that a kernel writes to, and the event that says when it has.

    runtime: CUDA's runtime library.  Raises RuntimeError with CUDA's number of an error.
    """
    BLOCKING, NO_TIMING, MAPPED = 1, 2, 2  # CUDA's flags
    NUMBERS = 3                            # float64: whether refused, loss, accepted steps so far

    def __init__(self, runtime):
        self.runtime = runtime
        memory, event = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(runtime.cudaHostAlloc(ctypes.byref(memory), ctypes.c_size_t(8 * self.NUMBERS),
                                          ctypes.c_uint(self.MAPPED)))
        self._check(runtime.cudaEventCreateWithFlags(
            ctypes.byref(event), ctypes.c_uint(self.BLOCKING | self.NO_TIMING)))
        self.address, self.event = memory.value, event.value or 0
        ctypes.memset(self.address, 0, 8 * self.NUMBERS)
        runtime.cudaGetLastError()  # forget what went before

    def _check(self, code):
        if code:
            raise RuntimeError(f"CUDA's error {code} in a training step; python Model.py --doctor "
                               "says whether this GPU computes right")

    def read(self):
        """The numbers, a list, once the kernel has run; later ones are not waited for.

        Nobody has looked whether the kernels were launched at all, Jittor's and ours.
        """
        self._check(self.runtime.cudaEventSynchronize(ctypes.c_void_p(self.event)))
        self._check(self.runtime.cudaGetLastError())
        return list((ctypes.c_double * self.NUMBERS).from_address(self.address))


class KernelVerdict:
    """Whether a step was accepted: the Var (4,) for kernels, and the slot where the host reads."""

    def __init__(self, var, slot):
        self.var, self.slot, self.reading = var, slot, None

    def read(self):
        """The Reading of this step; waits until the device has decided it, and no longer."""
        if self.reading is None:
            refused, loss, steps = self.slot.read()
            self.reading = Reading(loss, not refused, int(steps))
        return self.reading


# ------------------------------------------------------------------------------------- the kernels
def run_cuda(source, shapes, inputs, data):
    """`cuda_code` with the kernels of update.cuh, without gradients.

    The C++ also sees the lists _inputs and _outputs.  data: {name: number}.  Other numbers compile
    nothing anew.
    """
    with jt.no_grad():
        return cuda_code("update", source, shapes, inputs, **data)


def fill_table(places, first_input=0, first_output=0):
    """C++ that makes `table`, an update::Tensors.

    places: what a tensor's pointers are.  An "in" is a Var of the next list of inputs, an "out" of
    the next list of outputs.  Inputs before first_input belong to no list.
    """
    pointers, counts = [], {"in": 0, "out": 0}
    for place in places:
        if place in counts:
            first = first_input if place == "in" else first_output
            pointers.append(f"(float*)_{place}puts[{first} + {counts[place]} * count + i]->mem_ptr")
            counts[place] += 1
        else:
            pointers.append("nullptr")
    return f"""
        update::Tensors table;
        int count = (_inputs.size() - {first_input}) / {counts["in"]};
        for (int i = 0; i < count; i++)
            table.add(_inputs[{first_input} + i]->num, {", ".join(pointers)});
    """


def grouped(*lists):
    """Lists of equal length in parts of TENSORS, each a tuple of lists."""
    for k in range(0, len(lists[0]), TENSORS):
        yield tuple(each[k:k + TENSORS] for each in lists)


class Kernels:
    """The end of a step, with the methods of backend.updates.Composed.

    Parameters, moments, running statistics and averages change in place: no other Var may share
    their memory.  What reads their old values has to be launched before (`jt.sync`).
    """
    SLOTS = 4  # one is written while the one before is read

    def __init__(self):
        runtime = load_runtime()
        self.slots = itertools.cycle([Slot(runtime) for _ in range(self.SLOTS)])

    def decide(self, loss, steps, gradients, formula, limits):
        slot, sums = next(self.slots), []
        if limits.norm:
            for group, in grouped(gradients):
                blocks = sum(-(-var.numel() // CHUNK) for var in group)
                sums += run_cuda(fill_table(["none", "in"])
                                 + "update::square_sums(table, out0_p);", [[blocks]], group, {})
        if len(sums) > 1:
            sums = [jt.concat(sums)]
        verdict, = run_cuda(f"""
            update::Limits limits{{data["loss"], data["norm"], data["beta1"], data["beta2"]}};
            update::decide(in0_p, in1_p, {"in2_p, in2->num" if sums else "nullptr, 0"}, limits,
                           out0_p, (double*)(size_t)data["slot"]);
            cudaEventRecord((cudaEvent_t)(size_t)data["event"], 0);
        """, [[4]], [loss, steps, *sums], {
            "loss": min(limits.loss, LARGEST), "norm": limits.norm, "beta1": formula.beta1,
            "beta2": formula.beta2, "slot": slot.address, "event": slot.event})
        return KernelVerdict(verdict, slot)

    def apply(self, verdict, formula, rate, parameters, gradients, moments):
        values, *first = moments  # as Jittor names them: SGD has one moment, Adam's second is first
        kernel, places = "sgd", ["in"] * 3
        if first:
            kernel, places = "adam", ["in"] * 4
        numbers = {"rate": rate, "beta1": formula.beta1, "rest1": 1 - formula.beta1,
                   "beta2": formula.beta2, "rest2": 1 - formula.beta2, "epsilon": formula.epsilon,
                   "coupled": formula.coupled_decay, "decoupled": rate * formula.decoupled_decay}
        source = fill_table(places, first_input=1) + f"""
            update::Numbers numbers{{{", ".join(f'(float)data["{name}"]' for name in numbers)}}};
            update::{kernel}(table, numbers, in0_p);
        """
        launch([run_cuda(source, [[1]], [verdict.var, *itertools.chain(*group)], numbers)[0]
                for group in grouped(parameters, gradients, *first, values)])

    def move_statistics(self, verdict, batches):
        launch([self._move(verdict, group) for group, in grouped(batches)])

    def _move(self, verdict, batches):
        """Launch the kernel for up to TENSORS BatchStatistics; returns a Var that nobody reads."""
        inputs, data = [verdict.var], {"momentum": batches[0].norm.momentum}
        has_shift = batches[0].shift is not None
        for k, batch in enumerate(batches):
            norm = batch.norm
            inputs += [norm.running_mean, norm.running_var, batch.mean, batch.variance]
            inputs += [batch.shift] if has_shift else []
            data[f"unbiased{k}"] = batch.unbiased
        each = 5 if has_shift else 4
        fill = "".join(f'all.unbiased[{k}] = data["unbiased{k}"];\n' for k in range(len(batches)))
        return run_cuda(f"""
            update::Statistics all;
            all.count = {len(batches)};
            {fill}
            for (int k = 0; k < all.count; k++) {{
                auto var = [&](int i) {{ return (float*)_inputs[1 + {each} * k + i]->mem_ptr; }};
                all.channels[k] = _inputs[1 + {each} * k]->num;
                all.running_mean[k] = var(0), all.running_variance[k] = var(1);
                all.mean[k] = var(2), all.variance[k] = var(3);
                all.shift[k] = {"var(4)" if has_shift else "nullptr"};
            }}
            update::move_statistics(all, data["momentum"], in0_p);
        """, [[1]], inputs, data)[0]

    def average(self, averages, variables, share):
        launch([run_cuda(fill_table(["in", "in"])
                         + 'update::average(table, data["share"]);', [[1]],
                         [*of_averages, *of_vars], {"share": share})[0]
                for of_averages, of_vars in grouped(averages, variables)])

    def keep_values(self, variables):
        kept = list(itertools.chain.from_iterable(
            run_cuda(fill_table(["out", "in"]) + "update::copy(table);",
                     [var.shape for var in group], group, {})
            for group, in grouped(variables)))
        launch(kept)
        return kept

    def restore_values(self, variables, kept):
        launch([run_cuda(fill_table(["in", "in"]) + "update::copy(table);", [[1]],
                         [*of_vars, *of_kept], {})[0]
                for of_vars, of_kept in grouped(variables, kept)])


def launch(tokens):
    """Run what computes these Vars, without waiting for the device."""
    jt.sync(tokens)
