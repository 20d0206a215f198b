"""As much of PyTorch as benches/peers/gpu.py calls, on a machine without one: work takes no time, and every figure means nothing."""

import sys
import time
import types

__version__ = "0.0+stand-in"
version = types.SimpleNamespace(cuda="0.0")
bfloat16, float8_e4m3fn, uint8 = "bfloat16", "float8_e4m3fn", "uint8"


class Tensor:
    def __init__(self, *_, **__):
        pass

    def t(self):
        return self

    def to(self, _):
        return self

    def fill_(self, _):
        return self

    def copy_(self, _, non_blocking=False):
        time.sleep(0.001)
        return self


class Event:
    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self):
        self.at = time.monotonic()

    def elapsed_time(self, later):
        return max((later.at - self.at) * 1e3, 1e-3)


randn = empty = zeros = ones = Tensor


def manual_seed(_):
    pass


def matmul(a, b, out=None):
    time.sleep(0.001)
    return out


def _scaled_mm(*_, **__):
    raise RuntimeError("the stand-in multiplies no fp8")


cuda = types.SimpleNamespace(
    Event=Event, synchronize=lambda: None, empty_cache=lambda: None, is_available=lambda: True,
    get_device_capability=lambda: (9, 0), get_device_name=lambda: "a stand-in")
distributed = types.ModuleType("torch.distributed")
distributed.is_available = lambda: False
sys.modules["torch.distributed"] = distributed
