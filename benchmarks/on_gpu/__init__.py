"""The parts of `benchmarks/gpu.py`: each is a module whose `run` measures and returns figures."""
