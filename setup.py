"""What `pyproject.toml` cannot say: the C kernels. Without a compiler they are left out, PyTorch does their work."""

from pathlib import Path
from zlib import crc32

from setuptools import Extension, setup

SOURCE = "worldmodel/kernel.c"
# With OpenMP, but not linked to it: threads are taken from torch.
FLAGS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
# By the sum a library is told from one that was built before its source changed.
MACROS = [("SOURCE", f"{crc32(Path(SOURCE).read_bytes())}u")]
KERNEL = Extension("worldmodel._kernel", [SOURCE], define_macros=MACROS, extra_compile_args=FLAGS, optional=True)
setup(ext_modules=[KERNEL])
