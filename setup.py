"""What `pyproject.toml` cannot say: the C kernels. Without a compiler they are left out, PyTorch does their work."""

from setuptools import Extension, setup

# With OpenMP, but not linked to it: threads are taken from torch (worldmodel/kernel.c).
FLAGS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
setup(ext_modules=[Extension("worldmodel._kernel", ["worldmodel/kernel.c"], extra_compile_args=FLAGS, optional=True)])
