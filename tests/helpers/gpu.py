"""Devices that a test runs on: the CPU always, and a GPU where there is one, marked `gpu`."""

import pytest
import torch

NO_GPU = "computes on a CUDA device, and there is none here"
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)]
on_gpu = pytest.param("cuda", marks=needs_gpu)
EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", on_gpu])
