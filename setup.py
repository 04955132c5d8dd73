"""Builds the kernels: every ``csrc/<name>.pyx`` becomes ``sadik.kernels.native.<name>``.

Environment:
    SADIK_DEBUG=1           every Cython and C check on, no optimisation (``make debug``)
    SADIK_BUILD=ring,merkle only these kernels, while you work on them
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("SADIK_DEBUG") == "1"
ONLY = [name for name in os.environ.get("SADIK_BUILD", "").split(",") if name]
JOBS = os.cpu_count() or 1
SOURCES = Path("csrc")

# Checks are off only behind validation at each kernel's entry; the debug build turns them back on. All but
# nonecheck: it refuses attributes of self in nogil methods. Arguments that may not be None say so.
DIRECTIVES = {
    "language_level": 3,
    "embedsignature": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "cdivision": not DEBUG,
}
COMPILE = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0", "-DNDEBUG"]

names = sorted(path.stem for path in SOURCES.glob("*.pyx"))
# An empty glob once made a pure-Python wheel without a word: stop instead.
if not names:
    sys.exit(f"no kernels found in {SOURCES.resolve()}; a wheel without them would not run")
if unknown := sorted(set(ONLY) - set(names)):
    sys.exit(f"SADIK_BUILD names no such kernel: {', '.join(unknown)}")
chosen = ONLY or names


# A debug kernel is newer than its sources, so setuptools would keep it. Its C file marks it as built last.
MARKS = [Path("build/debug", SOURCES, f"{name}.c") for name in chosen]


class BuildKernels(build_ext):
    """Translates all kernels side by side, then compiles them side by side."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or JOBS
        self.force = self.force or DEBUG or any(mark.exists() for mark in MARKS)

    def build_extensions(self):
        # Not at import: metadata and source distributions would wait for Cython as well.
        translated = cythonize(
            self.extensions,
            compiler_directives=DIRECTIVES,
            build_dir="build/debug" if DEBUG else "build/cython",
            include_path=[str(SOURCES)],
            nthreads=0 if len(chosen) == 1 else JOBS,
            force=DEBUG,
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().build_extensions()
        if not DEBUG:
            for mark in MARKS:
                mark.unlink(missing_ok=True)


setup(
    ext_modules=[
        Extension(
            f"sadik.kernels.native.{name}",
            [str(SOURCES / f"{name}.pyx")],
            include_dirs=[str(SOURCES)],
            extra_compile_args=COMPILE,
            depends=[str(path) for pattern in ("*.pxd", "*.h") for path in sorted(SOURCES.glob(pattern))],
        )
        for name in chosen
    ],
    cmdclass={"build_ext": BuildKernels},
)
