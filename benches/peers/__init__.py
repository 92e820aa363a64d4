"""sumexp beside PyTorch, Triton and other libraries: the same tensors, one process, one run. `python3 -m peers --help`."""
