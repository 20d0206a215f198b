"""Compiles kernels.cu to kernels.ptx with NVRTC: python3 -m pip install nvidia-cuda-nvrtc-cu11==11.7.99, then
make kernels. That version's PTX loads in every driver from 515 on; a newer compiler's would not. The first line of
kernels.ptx is the SHA-256 of the source, by which a test tells that the two are in step."""
import ctypes, glob, hashlib, os, site, sys

here = os.path.dirname(os.path.abspath(__file__))
places = [p for d in site.getsitepackages() + sys.path for p in glob.glob(d + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.11*")]
if not places:
    sys.exit(__doc__)
nvrtc = ctypes.CDLL(places[0])


def text(size, get):
    n = ctypes.c_size_t()
    size(program, ctypes.byref(n))
    buffer = ctypes.create_string_buffer(n.value)
    get(program, buffer)
    return buffer.value.decode()


program = ctypes.c_void_p()
source = open(here + "/kernels.cu", "rb").read()
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
options = [b"--gpu-architecture=compute_70", b"--std=c++14"]
failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
sys.stderr.write(text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))
if failed:
    sys.exit(1)
ptx = text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX).rstrip("\0")
with open(here + "/kernels.ptx", "w") as out:
    out.write(f"// kernels.cu {hashlib.sha256(source).hexdigest()}\n{ptx}")
