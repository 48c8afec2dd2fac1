"""Libraries of a device that does nothing: they take the place of NVIDIA's in an installed tree.

A stand-in has the real library's name and exports its symbols.  A function returns 0 and does
nothing more, but for those that stand_in/*.c writes out.
"""
import os
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "stand_in"
KEPT = ("libnvvm", "libcudadevrt")  # what nvcc itself runs and links


def record_symbols(site):
    """Write beside each of NVIDIA's libraries what it exports, and remove the library.

    site: a folder that pip has installed wheels of NVIDIA's into.
    """
    for library in _libraries(site, "*.so.*"):
        listing = subprocess.run(["nm", "-D", "--defined-only", library], text=True, check=True,
                                 capture_output=True).stdout
        words = [line.split() for line in listing.splitlines()]
        functions = {word[2].split("@")[0] for word in words if word[1] in "TWi"}
        Path(f"{library}.symbols").write_text("".join(f"{name}\n" for name in sorted(functions)))
        library.unlink()
    for archive in _libraries(site, "*.a"):
        archive.unlink()


def build_libraries(site):
    """Build the stand-in of every library whose symbols were recorded, where it lay."""
    for symbols in sorted(site.glob("nvidia/*/lib/*.symbols")):
        library = symbols.with_suffix("")
        source = SOURCES / f"{library.name.split('.')[0].removeprefix('lib')}.c"
        if source.is_file():
            _link(library, site, source, symbols.read_text().split())
        else:  # Jittor loads it and calls nothing in it
            _link(library, site)


def build_driver(folder, site):
    """Build the stand-in of the driver's library into a folder, for LD_LIBRARY_PATH."""
    folder.mkdir(exist_ok=True)
    _link(folder / "libcuda.so.1", site, SOURCES / "driver.c")
    link = folder / "libcuda.so"
    link.unlink(missing_ok=True)
    link.symlink_to("libcuda.so.1")


def _libraries(site, pattern):
    return [path for path in sorted(site.glob(f"nvidia/*/lib/lib{pattern}"))
            if not path.name.startswith(KEPT)]


def _link(library, site, source=None, names=()):
    """Link a library of a C source and the headers of `site`.

    Of the functions `names` it exports those, too, that the source does not define.
    """
    rest = library.with_name(f"{library.name}.c")
    rest.write_text("".join(f"__attribute__((weak)) long {name}() {{ return 0; }}\n"
                            for name in names))
    includes = [f"-I{folder}" for folder in sorted(site.glob("nvidia/*/include"))]
    library.unlink(missing_ok=True)  # a process may have the old one open
    subprocess.run(["gcc", "-w", "-O1", "-shared", "-fPIC", "-fno-builtin", f"-I{SOURCES}",
                    *includes, *([source] if source else []), rest, "-o", library,
                    f"-Wl,-soname,{library.name}"], check=True)
    rest.unlink()
    os.utime(library, (0, 0))  # what was compiled with it stays good
