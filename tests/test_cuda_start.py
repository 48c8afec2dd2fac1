"""The search for CUDA, the folder that Jittor sees, and what is said where CUDA fails.

Trees of files stand in for installations, and small programs for the trial.  tests/gpu has the
same with the real compiler.
"""
import ctypes
import os
import shutil
import subprocess
import sys
import threading

import cuda_trees as trees
import pytest
from cuda_trees import H100, LAYOUTS, places, put, remove

from backend import cuda_home, cuda_program, cuda_proof, cuda_toolkit, preparation, start
from backend.cuda_toolkit import NCCL, Found
from backend.raw_import import CoreOfCuda
from command import hardware
from command.hardware import Card, Driver

INSTALL = "pip install -r requirements/gpu.txt"
OLD_DRIVER = Driver(12040, H100.cards)
NAMES = [layout.__name__ for layout in LAYOUTS]
NEEDED = ("cudart", "cublas", "cublasLt", "curand", "cudnn", "cudnn_ops_infer", "cudnn_ops_train",
          "cudnn_cnn_infer", "cudnn_cnn_train")


def found_in(root, driver=H100, **given):
    return cuda_toolkit.find_toolkits(places(root, path=trees.paths_of(root), **given), driver)


def only(found):
    assert len(found.toolkits) == 1 and found.cause == ""
    return found.toolkits[0]


# --------------------------------------------------------------------------------------- the search
@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_each_layout_is_found_and_looks_alike_to_jittor(tmp_path, layout):
    nvcc = layout(tmp_path)
    toolkit = only(found_in(tmp_path))
    assert toolkit.nvcc == nvcc
    home = cuda_home.build_home(toolkit, tmp_path / "homes")
    for name in NEEDED:
        library = home / "lib64" / f"lib{name}.so"
        part = name.rsplit("_", 1)[0] if toolkit.cudnn >= 9 and "infer" in name else name
        assert library.read_text().startswith(part.removesuffix("_train"))
    assert (home / "lib64" / "libcudadevrt.a").is_file() and (home / "include/npp.h").is_file()
    assert [path for path in home.rglob("*") if not path.exists()] == [], "links to nothing"
    assert cuda_home.version_of(home) == toolkit.version
    system = tmp_path / "usr" / "include"
    assert any((place / "crt" / "host_config.h").is_file() for place in (home / "include", system))
    script = (home / "bin" / "nvcc")
    assert os.access(script, os.X_OK) and str(nvcc) in script.read_text()


def test_headers_are_linked_but_not_those_of_the_system(tmp_path):
    """A link to a system's header would change the order in which a compiler searches them."""
    for layout, linked, absent in ((trees.debians_packages, "npp.h", "stdlib.h"),
                                   (trees.conda, "crt", "zlib.h"),
                                   (trees.wheels, "cublas_v2.h", "cudnn_frontend.h")):
        root = tmp_path / layout.__name__
        layout(root)
        home = cuda_home.build_home(only(found_in(root)), tmp_path / "homes")
        assert (home / "include" / linked).exists()
        assert not (home / "include" / absent).exists()


def test_the_order_of_the_search(tmp_path):
    wheel, script, system = map(lambda build: build(tmp_path), (
        trees.wheels, trees.a_script_in_the_path, trees.cuda_12_with_cudnn_8))
    bundle = trees.jittors_bundle(tmp_path)
    own = trees.toolkit(tmp_path / "my own", with_cudnn=9)
    assert [toolkit.nvcc for toolkit in found_in(tmp_path).toolkits] == [
        bundle, wheel, script, system]
    assert only(found_in(tmp_path, nvcc_path=str(own))).nvcc == own


def test_a_link_and_a_script_to_a_toolkit_are_one(tmp_path):
    trees.cuda_12_with_cudnn_8(tmp_path)
    script = trees.compiler(tmp_path / "tools/nvcc", tmp_path / "usr/local/cuda")
    assert only(found_in(tmp_path)).nvcc == script


def test_pytorchs_cudnn_goes_before_the_systems(tmp_path):
    trees.pytorchs_wheels_beside_a_toolkit(tmp_path)
    part = only(found_in(tmp_path)).parts[cuda_toolkit.CUDNN]
    assert part.lib == tmp_path / "site/nvidia/cudnn/lib"


def test_a_wheel_for_another_cuda_is_left_alone(tmp_path):
    trees.cuda_12_with_the_wheel_of_cudnn_8(tmp_path)
    (tmp_path / "site" / "nvidia_cudnn_cu12-8.9.7.29.dist-info").rename(
        tmp_path / "site" / "nvidia_cudnn_cu13-9.28.1.4.dist-info")
    assert "cuDNN is not installed" in found_in(tmp_path).cause


# ------------------------------------------------------------------------------- what keeps it away
@pytest.mark.parametrize("pattern, words", [
    ("cuda_runtime_api.h", "CUDA's runtime is not installed (cuda_runtime_api.h, libcudart.so)"),
    ("libcudart.so*", "CUDA's runtime is not installed (cuda_runtime_api.h, libcudart.so)"),
    ("libcublas.so*", "cuBLAS is not installed (cublas_v2.h, libcublas.so)"),
    ("curand.h", "cuRAND is not installed (curand.h, libcurand.so)"),
    ("libcudnn.so*", "cuDNN is not installed (cudnn.h, libcudnn.so)")])
def test_a_missing_part_is_named_with_its_remedy(tmp_path, pattern, words):
    nvcc = trees.wheels(tmp_path)
    remove(tmp_path, pattern)
    assert found_in(tmp_path) == Found((), f"{nvcc}: {words}; {INSTALL}")


def test_without_a_compiler_the_remedy_depends_on_the_driver(tmp_path):
    assert found_in(tmp_path).cause == f"no CUDA toolkit (nvcc) found; {INSTALL}"
    assert found_in(tmp_path, OLD_DRIVER).cause == (
        "no CUDA toolkit (nvcc) found; either update the driver to 580 or newer and "
        f"{INSTALL}, or install CUDA 12 and cuDNN (docs/gpu.md)")
    assert found_in(tmp_path, nvcc_path="/no/nvcc").cause == "nvcc_path: no file /no/nvcc"


def test_a_toolkit_without_cudnn_and_an_old_driver(tmp_path):
    nvcc = trees.toolkit(tmp_path / "usr/local/cuda", 12040)
    assert found_in(tmp_path, OLD_DRIVER).cause == (
        f"{nvcc}: cuDNN is not installed (cudnn.h, libcudnn.so); either update the driver to 580 "
        f"or newer and {INSTALL}, or install cuDNN for CUDA 12 (docs/gpu.md)")


def test_a_toolkit_that_is_newer_than_the_driver_gives_way_to_one_that_fits(tmp_path):
    nvcc = trees.wheels(tmp_path)
    assert found_in(tmp_path, OLD_DRIVER).cause == (
        f"{nvcc} is of CUDA 13.0, but the NVIDIA driver knows CUDA 12.4 at most; "
        "update the driver to 580 or newer")
    system = trees.cuda_12_with_cudnn_8(tmp_path)
    assert only(found_in(tmp_path, OLD_DRIVER)).nvcc == system


def test_a_card_that_is_too_old_for_the_toolkit(tmp_path):
    nvcc = trees.wheels(tmp_path)
    volta = Driver(13000, (*H100.cards, Card("Tesla V100", 70)))
    assert found_in(tmp_path, volta).cause == (
        f"CUDA 13.0 ({nvcc}) does not compile for Tesla V100, which is too old; "
        "install CUDA 12 and cuDNN for it (docs/gpu.md)")


class MadeUpDriver:
    """What `ask_driver` calls of libcuda.so.1."""

    def __init__(self, error=0, cards=("NVIDIA A100", "NVIDIA A2")):
        self.error, self.cards = error, cards

    def cuInit(self, flags):
        return self.error

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.cards)

    def cuDeviceGet(self, device, number):
        device._obj.value = number

    def cuDeviceGetName(self, name, length, device):
        name.value = self.cards[device.value].encode()

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 6 * device.value}[attribute]


@pytest.mark.parametrize("driver, cause", [
    (MadeUpDriver(100), "no NVIDIA GPU found"), (MadeUpDriver(cards=()), "no NVIDIA GPU found"),
    (MadeUpDriver(803), "the NVIDIA driver does not answer (CUDA's error 803); "
                        "after an update of the driver restart the machine")])
def test_a_driver_without_a_card(monkeypatch, driver, cause):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert hardware.ask_driver() == (None, cause)


def test_the_driver_names_its_cards(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: MadeUpDriver())
    assert hardware.ask_driver().driver == Driver(12080, (Card("NVIDIA A100", 80),
                                                         Card("NVIDIA A2", 86)))


# ------------------------------------------------------------------------- the folder that it makes
def test_a_home_is_built_anew_when_its_sources_change(tmp_path):
    trees.wheels(tmp_path)
    build = lambda: cuda_home.build_home(only(found_in(tmp_path)), tmp_path / "homes")  # noqa: E731
    first = build()
    before = first.stat().st_mtime_ns
    assert build() == first and first.stat().st_mtime_ns == before
    put(tmp_path / "site/nvidia/cudnn/lib/libcudnn.so.9", "another cudnn")
    assert build() != first and first.is_dir(), "a process may still use the first"


def test_homes_that_are_built_at_the_same_time(tmp_path):
    trees.wheels(tmp_path)
    toolkit, built = only(found_in(tmp_path)), []
    threads = [threading.Thread(target=lambda: built.append(
        cuda_home.build_home(toolkit, tmp_path / "homes"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(built)) == 1 and len(built) == 8
    assert list((tmp_path / "homes").iterdir()) == built[:1], "nothing half-built is left"


def test_a_compiler_finds_the_names_that_cuda_13_and_cudnn_9_have_dropped(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("no g++")
    trees.wheels(tmp_path)
    home = cuda_home.build_home(only(found_in(tmp_path)), tmp_path / "homes")
    source = put(tmp_path / "a.cc", """#include <driver_types.h>
#include <cudnn.h>
#include <npp.h>
static_assert(NPP_MAX_32S == 2147483647 && NPP_MIN_32U == 0, "");
int f(cudaDeviceProp p) { return p.computeMode + p.clockRate; }
bool g() { return cudnnSetRNNDescriptor_v6(1, 2.f, "") == CUDNN_STATUS_NOT_SUPPORTED; }
""")
    subprocess.run(["g++", "-std=c++14", "-Wall", "-Werror", f"-I{home / 'include'}", "-c", source,
                    "-o", tmp_path / "a.o"], check=True)


def test_the_processes_that_jittors_process_starts_see_the_nvcc_behind_its_own(
        tmp_path, monkeypatch):
    nvcc = trees.wheels(tmp_path)
    home = cuda_home.build_home(only(found_in(tmp_path)), tmp_path / "homes")
    monkeypatch.setenv("nvcc_path", str(home / "bin" / "nvcc"))
    assert cuda_toolkit.this_machine().nvcc_path == str(nvcc)


# -------------------------------------------------------------------- what Jittor is told about it
@pytest.mark.parametrize("version, capabilities, flag", [
    (13000, [75], ""), (13000, [90], ""), (13000, [120], "-code=compute_90"),
    (13000, [86, 120], "-code=compute_86"), (12040, [89, 90], ""),
    (11060, [90], "-code=compute_86"), (11000, [80], "")])
def test_cards_newer_than_jittors_list_get_ptx(version, capabilities, flag):
    cards = [Card("", capability) for capability in capabilities]
    assert cuda_program.ptx_flag(version, cards) == flag


def test_nccl_is_used_by_many_ranks_alone(tmp_path, monkeypatch):
    trees.wheels(tmp_path)
    home = cuda_home.build_home(only(found_in(tmp_path)), tmp_path / "homes")
    monkeypatch.setattr(preparation, "ask_driver", lambda: hardware.DriverAnswer(H100, ""))
    monkeypatch.setattr(os, "environ", {"use_nccl": "0"})
    preparation.use_home(home)
    assert os.environ["use_nccl"] == "0"
    preparation.use_home(home, several=True)
    assert os.environ["use_nccl"] == "1"
    assert os.path.isfile(f"{os.environ['nccl_include_path']}/nccl.h")
    assert os.path.isfile(f"{os.environ['nccl_lib_path']}/libnccl.so")
    preparation.use_home(None)
    assert os.environ["nvcc_path"] == ""


def test_several_processes_need_nccl_and_a_gpu_each(tmp_path, monkeypatch):
    two = Driver(13000, 2 * H100.cards)
    monkeypatch.setattr(start, "ask_driver", lambda: hardware.DriverAnswer(two, ""))
    monkeypatch.setattr(start, "this_machine", lambda: places(tmp_path))
    for name in ("nvcc_path", "use_nccl"):
        monkeypatch.delenv(name, raising=False)
    trees.wheels(tmp_path)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    assert NCCL in only(start.find_cuda()).parts
    remove(tmp_path, "libnccl*")
    assert start.find_cuda() == Found((), f"several processes on GPUs need NCCL; {INSTALL}")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    assert start.find_cuda().cause == (
        "4 processes on this machine need as many GPUs; start 2 at most")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    assert NCCL not in only(start.find_cuda()).parts


# ------------------------------------------------------------------------ the trial, and its memory
WRITES = "import json, os, sys, time\ndef say(**said): json.dump(said, open(sys.argv[2], 'w'))\n"
TRIALS = {
    "passes": ("say(cause='', kernels={'resize': '', 'join': 'at 3, 4'})",
               "", {"resize": "", "join": "at 3, 4"}),
    "says why": ("say(cause='no cuDNN', kernels=None)", "no cuDNN", {}),
    "dies early": ("print('one\\n/a.h(3): error: no field\\ntwo', flush=True); os.abort()",
                   "/a.h(3): error: no field (SIGABRT)", {}),
    "is killed": ("print('Compiling', flush=True); os.kill(os.getpid(), 9)", "SIGKILL", {}),
    "ends early": ("sys.exit(3)", "exit code 3", {}),
    "hangs": ("time.sleep(60)", "no sign of life for 2 seconds", {}),
    "dies with the kernels": ("say(cause='', kernels=None); os.abort()", "",
                              {"all": "their check ended by SIGABRT"})}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder in the place of Jittor's cache, as an own module would find it."""
    monkeypatch.setattr(cuda_proof, "jittor_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(cuda_proof, "this_machine", lambda: places(tmp_path))
    (tmp_path / "cache" / "unet-cuda").mkdir(parents=True)
    return tmp_path / "cache"


@pytest.mark.parametrize("body, cause, kernels", TRIALS.values(), ids=TRIALS)
def test_however_a_trial_ends_it_is_one_line(cache, body, cause, kernels):
    log = cache / "proof.log"
    outcome = cuda_proof.run_trial(cache, log, ("-c", WRITES + body), 2 if "60" in body else 100)
    said = f"CUDA's trial failed: {cause}; its log is {log}"
    assert outcome.cause == (said if cause else "")
    assert {name: what.split(";")[0] for name, what in outcome.kernels.items()} == kernels
    assert "\n" not in outcome.cause and not log.with_suffix(".part").exists()


@pytest.mark.parametrize("first", ["os.kill(os.getpid(), 11)", "sys.exit(1)", "time.sleep(60)",
                                   "say(cause='', kernels=None); os.kill(os.getpid(), 11)"])
def test_a_trial_that_dies_is_made_once_more_with_one_thread(cache, first):
    body = (f"if os.environ.get('use_parallel_op_compiler') != '1':\n    {first}\n"
            "say(cause='', kernels={'join': ''})")
    outcome = cuda_proof.run_trial(cache, cache / "proof.log", ("-c", WRITES + body),
                                   2 if "60" in first else 100)
    assert outcome == ("", {"join": ""})


def test_a_trial_that_hangs_is_ended_with_its_compilers(cache):
    body = ("import subprocess\nother = subprocess.Popen(['sleep', '60'])\n"
            "print('ready', flush=True)\nother.wait()")
    process = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    assert cuda_proof._wait(process, cache, silence=0.5) == "no sign of life for 0 seconds"
    assert process.returncode == -9
    assert process.stdout.read() == "", "its output is closed: the other process has ended too"
    process.stdout.close()


def test_a_trial_that_compiles_is_no_trial_that_hangs(cache):
    folder = cache / "cu13.0.88_sm_90" / "obj_files"
    folder.mkdir(parents=True)
    body = (f"for k in range(12):\n    time.sleep(1); open({str(folder)!r} + f'/{{k}}.o', 'w')\n"
            "say(cause='', kernels={})")
    outcome = cuda_proof.run_trial(cache, cache / "proof.log", ("-c", WRITES + body), silence=8)
    assert outcome == ("", {})


@pytest.fixture
def tried(cache, tmp_path, monkeypatch):
    """A toolkit, and the list of its trials: the next ones' results can be set."""
    trees.wheels(tmp_path)
    toolkit = only(found_in(tmp_path))
    runs, results = [], {"program": "", "trial": cuda_proof.Outcome("", {"join": ""})}
    monkeypatch.setattr(cuda_proof, "compile_program", lambda *given: results["program"])
    monkeypatch.setattr(cuda_proof, "run_trial",
                        lambda *given: runs.append(given) or results["trial"])
    monkeypatch.setattr(cuda_proof, "ROOM", tmp_path)
    monkeypatch.setattr(cuda_proof, "ask_driver", lambda: hardware.DriverAnswer(H100, ""))
    put(tmp_path / "kernels" / "cuda" / "join.cuh", "one")

    def prove(again=False, driver=H100):
        return cuda_proof.prove((toolkit,), driver, again)
    prove.runs, prove.results, prove.toolkit = runs, results, toolkit
    return prove


def test_a_proof_is_remembered_until_something_changes(tried, tmp_path):
    proof = tried()
    assert (proof.cause, proof.kernels) == ("", {"join": ""})
    assert tried() == tried(again=True) == proof and len(tried.runs) == 1
    assert cuda_proof.known_kernels(proof.home) == {"join": ""}
    tried(driver=Driver(13010, H100.cards))
    tried(driver=Driver(13000, (Card("NVIDIA B200", 100),)))
    assert len(tried.runs) == 3
    put(tmp_path / "kernels" / "cuda" / "join.cuh", "two")
    tried()
    put(tmp_path / "cuda_operators.py")
    tried()
    assert len(tried.runs) == 5


def test_a_second_process_waits_for_the_trial_of_the_first(tried, capsys):
    begun, go_on = threading.Event(), threading.Event()

    def trial(*given):
        tried.runs.append(given)
        begun.set()
        assert go_on.wait(60)
        return cuda_proof.Outcome("", {"join": ""})
    cuda_proof.run_trial = trial  # `tried` puts it back
    threads = [threading.Thread(target=tried) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    while "Another process tries CUDA" not in capsys.readouterr().err:
        assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(tried.runs) == 1


def test_a_failed_trial_is_remembered_and_tried_again_on_demand(tried):
    tried.results["trial"] = cuda_proof.Outcome("it failed", {})
    assert tried().cause == "it failed"
    assert tried().cause == "it failed (--device cuda tries again)" and len(tried.runs) == 1
    tried.results["trial"] = cuda_proof.Outcome("", {})
    assert tried(again=True).cause == "" and len(tried.runs) == 2


def test_a_program_that_does_not_compile_is_not_remembered(tried):
    tried.results["program"] = "no"
    assert tried().cause == "no" and tried.runs == []
    tried.results["program"] = ""
    assert tried().cause == ""


def test_the_next_toolkit_is_tried_where_the_first_fails(tried, tmp_path, monkeypatch):
    other = only(found_in(tmp_path, nvcc_path=str(trees.toolkit(tmp_path / "b", with_cudnn=9))))
    monkeypatch.setattr(cuda_proof, "compile_program",
                        lambda home, toolkit, driver: "no" * (toolkit == tried.toolkit))
    proof = cuda_proof.prove((tried.toolkit, other), H100, again=False)
    assert proof.cause == "" and proof.home == cuda_home.build_home(other, proof.home.parent)
    monkeypatch.setattr(cuda_proof, "compile_program", lambda home, toolkit, driver: toolkit.nvcc)
    proof = cuda_proof.prove((tried.toolkit, other), Driver(13010, H100.cards), again=False)
    assert proof.cause == tried.toolkit.nvcc, "the first cause"


def test_a_proof_can_be_stored_for_a_stand_in(tried, tmp_path):
    cuda_proof.store_proof({"join": "", "resize": "differs"})
    assert tried().kernels == {"join": "", "resize": "differs"} and tried.runs == []


@pytest.mark.parametrize("error, cause, remedy", [
    ("host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 "
     "are not supported!", "unsupported GNU version", "install g++-12 and set cc_path=g++-12"),
    ("/usr/bin/ld: cannot find -lcudnn", "cannot find -lcudnn", "docs/gpu.md says what is needed"),
    ("sh: 1: cicc: not found", "cicc: not found", INSTALL)])
def test_a_compilers_error_is_said_with_a_remedy(tmp_path, error, cause, remedy):
    nvcc = trees.wheels(tmp_path)
    nvcc.write_text(f"#!/bin/sh\necho 'In file included from a.h:' >&2\necho '{error}' >&2\nexit 1")
    toolkit = only(found_in(tmp_path))
    home = cuda_home.build_home(toolkit, tmp_path / "homes")
    said = cuda_program.compile_program(home, toolkit, H100)
    assert said.startswith(f"{nvcc} makes no program that runs: ") and "\n" not in said
    assert cause in said and said.endswith(f"; {remedy}") and "included" not in said


def test_a_program_that_dies_when_it_is_loaded_is_no_proof(tmp_path):
    """An nvcc that makes a library of g++'s, whose function ends the process."""
    if not shutil.which("g++"):
        pytest.skip("no g++")
    nvcc = trees.wheels(tmp_path)
    source = put(tmp_path / "dies.cc", "#include <cstdlib>\n"
                                       "extern \"C\" const char *prove() { abort(); }\n")
    nvcc.write_text(f"#!/bin/sh\nfor last; do :; done\ng++ -shared -fPIC {source} -o $last\n")
    toolkit = only(found_in(tmp_path))
    home = cuda_home.build_home(toolkit, tmp_path / "homes")
    assert "exit code -6" in cuda_program.compile_program(home, toolkit, H100)
    put(source, "extern \"C\" const char *prove() { return \"no kernel image is available\"; }\n")
    assert cuda_program.compile_program(home, toolkit, H100).endswith(
        "no kernel image is available; update the NVIDIA driver")
    put(source, "extern \"C\" const char *prove() { return \"\"; }\n")
    assert cuda_program.compile_program(home, toolkit, H100) == ""


# ----------------------------------------------------------------------------- the start as a whole
JITTOR = """import os
if os.environ["nvcc_path"]:
    from jittor_utils import install_cuda
    install_cuda.has_installation()
if os.environ["nvcc_path"] and "dies" in os.environ["TRIAL"]: raise RuntimeError("no\\nluck")
class flags: use_cuda = 0
class cudnn:
    set_algorithm_cache_size = set_max_workspace_ratio = lambda number: print(round(number, 4))
cublas = curand = cudnn
"""
STARTS = """
import os, sys
from pathlib import Path
from backend import cuda_proof, preparation, start
from command import hardware
from command.errors import run
trial, driver = os.environ["TRIAL"], hardware.Driver(13000, (hardware.Card("H100", 90),))
preparation.version_of = lambda home: 13000
start.ask_driver = preparation.ask_driver = lambda: hardware.DriverAnswer(driver, "")
start.gpu_memory = lambda: 80 << 30
start.find_toolkits = lambda *given: start.Found(("a toolkit",), "")
start.known_kernels = lambda home: {"join": "", "resize": "at 3"}
start.prove = lambda *given, again: cuda_proof.Proof(
    Path("/a/home"), "it failed" * (trial == "fails"), {})
def main():
    jt = start.import_jittor(sys.argv[1], exact=trial == "passes exactly")
    print(jt.flags.use_cuda, start.cuda_home(), *sorted(start.trusted_kernels()))
    print(start.device_name().split("(")[1], os.environ.get("NVIDIA_TF32_OVERRIDE", "TF32"))
sys.exit(run(main))
"""


def start_with(tmp_path, trial, device):
    """A start whose trial of CUDA ends in some way, with a package in the place of Jittor."""
    put(tmp_path / "jittor_utils" / "__init__.py", f"cache_path = {str(tmp_path / 'cache')!r}")
    put(tmp_path / "jittor_utils" / "install_cuda.py",
        "def has_installation(): raise SystemExit('Jittor downloads its own CUDA')\n")
    put(tmp_path / "jittor" / "__init__.py", JITTOR)
    put(tmp_path / "jittor" / "nn.py")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TRIAL": trial,
                   "HOME": str(tmp_path / "home"), "cc_path": sys.executable}
    for name in ("nvcc_path", "NVIDIA_TF32_OVERRIDE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", STARTS, device], cwd=trees.ROOT, text=True,
                          env=environment, capture_output=True, timeout=60)
    errors = [line for line in done.stderr.splitlines()
              if line and not line.startswith(("Compiling", "compiling", "oneDNN"))]
    return done.returncode, done.stdout.splitlines(), errors


def test_a_start_on_a_gpu_says_which_kernels_it_leaves_out(tmp_path):
    assert start_with(tmp_path, "passes", "auto") == (
        0, ["10000", "0.025", "1 /a/home join", "CUDA) TF32"],
        ["Own CUDA kernel not used: resize: at 3"])
    assert start_with(tmp_path, "passes exactly", "cuda")[1][-1] == "CUDA) 0"


@pytest.mark.parametrize("trial, reason", [
    ("fails", "it failed"), ("dies", "CUDA passed its trial, but Jittor does not start here: no; "
                                     "for its own log set log_silent=0 log_v=1; remove /a to have "
                                     "it tried again")])
def test_auto_goes_on_with_the_cpu_and_says_why(tmp_path, trial, reason):
    assert start_with(tmp_path, trial, "auto") == (
        0, ["0 None", "CPU) TF32"], [f"Running on the CPU: {reason}"])


@pytest.mark.parametrize("trial, reason", [
    ("fails", "--device cuda: it failed; use --device cpu or auto"),
    ("dies", "Jittor does not start here: no; for its own log set log_silent=0 log_v=1")])
def test_cuda_ends_in_that_line(tmp_path, trial, reason):
    assert start_with(tmp_path, trial, "cuda") == (1, [], [f"-c: error: {reason}"])


def test_the_core_for_cuda_is_found_behind_the_one_for_the_cpu(tmp_path, monkeypatch):
    """Jittor puts both folders into sys.path.  After a run on the CPU both have a core."""
    folders = [tmp_path / "default", tmp_path / "default" / "cu13.0.88_sm_90"]
    for folder in folders:
        folder.mkdir()
        (folder / "jittor_core.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, *map(str, folders)])
    assert CoreOfCuda.find_spec("jittor_core").origin == str(folders[1] / "jittor_core.py")
    assert CoreOfCuda.find_spec("json") is None
