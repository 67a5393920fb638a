"""Compile lehr's kernels with NVIDIA's own compiler, without a GPU: nvrtc.py FOLDER CHIP LIST.

FOLDER holds the Metal translations that `cargo test --test shaders` writes (target/translated/metal): they are C++, and with a header that
defines what they use of Metal they are CUDA. NVRTC (the package nvidia-cuda-nvrtc) compiles them for CHIP (sm_86) and its ptxas says what
they take. LIST is what `lehr doctor --write-shaders` says of NVIDIA: kernels that only other vendors get are left out. Prints the table of vkstat. Bounds checks of buffers are left out, as on Vulkan, where the driver has them.

Told the size of a workgroup and no more, ptxas moves a few bytes of some kernels to memory so that another workgroup fits on a multiprocessor.
Such a kernel is compiled again with one workgroup as the aim (`__launch_bounds__(threads, 1)`): what spills then does not fit in registers, and
is what the table says. The kernels and the bytes of the first compilation go to standard error.
"""

import ctypes
import importlib.util
import re
import sys
from pathlib import Path

HEADER = r"""
typedef unsigned int uint;
struct Bound {};  // the size of a buffer: indices are not compared with it
__device__ inline Bound operator-(Bound, int) { return {}; }
__device__ inline Bound operator/(Bound, int) { return {}; }
struct half2 { unsigned short x, y; };
template <class T, class U> __device__ inline T as_type(U from) {
    static_assert(sizeof(T) == sizeof(U), "bits are taken as they are");
    return *reinterpret_cast<T*>(&from);
}
namespace metal {
typedef unsigned int uint;
struct uint3 { uint x, y, z; };
struct alignas(16) uint4 {
    uint x, y, z, w;
    __device__ uint4(uint a = 0) : x(a), y(a), z(a), w(a) {}
    __device__ uint4(uint a, uint b, uint c, uint d) : x(a), y(b), z(c), w(d) {}
};
struct alignas(8) uint2 { uint x, y; };
struct alignas(8) float2 { float x, y; __device__ float2(half2 a); __device__ float2(float a, float b) : x(a), y(b) {} };
struct bool4 { bool x, y, z, w; };
__device__ inline bool4 operator<(uint4 a, uint4 b) { return {a.x < b.x, a.y < b.y, a.z < b.z, a.w < b.w}; }
struct alignas(16) float4 {
    float x, y, z, w;
    __device__ float4() : x(0), y(0), z(0), w(0) {}
    __device__ float4(float a) : x(a), y(a), z(a), w(a) {}
    __device__ float4(float a, float b, float c, float d) : x(a), y(b), z(c), w(d) {}
    __device__ float4(float2 a, float2 b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
};
__device__ inline float2::float2(half2 a) {
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(a.x));
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(a.y));
}
__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float4 operator*(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ inline float4 operator*(float a, float4 b) { return {a * b.x, a * b.y, a * b.z, a * b.w}; }
__device__ inline float4 operator*(float4 b, float a) { return a * b; }
__device__ inline float4 operator/(float4 a, float4 b) { return {a.x / b.x, a.y / b.y, a.z / b.z, a.w / b.w}; }
__device__ inline float4 operator-(float4 a, float4 b) { return {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w}; }
__device__ inline float4 operator-(float4 a) { return {-a.x, -a.y, -a.z, -a.w}; }
__device__ inline bool4 operator>=(float4 a, float4 b) { return {a.x >= b.x, a.y >= b.y, a.z >= b.z, a.w >= b.w}; }
__device__ inline float4 select(float4 a, float4 b, bool4 c) {
    return {c.x ? b.x : a.x, c.y ? b.y : a.y, c.z ? b.z : a.z, c.w ? b.w : a.w};
}
template <class T> __device__ inline T select(T a, T b, bool c) { return c ? b : a; }
__device__ inline uint min(uint a, uint b) { return a < b ? a : b; }
__device__ inline uint min(uint a, Bound) { return a; }
__device__ inline float max(float a, float b) { return fmaxf(a, b); }
__device__ inline float clamp(float a, float low, float high) { return fminf(fmaxf(a, low), high); }
__device__ inline float exp(float a) { return __expf(a); }
__device__ inline float4 exp(float4 a) { return {exp(a.x), exp(a.y), exp(a.z), exp(a.w)}; }
__device__ inline float4 max(float4 a, float4 b) { return {max(a.x, b.x), max(a.y, b.y), max(a.z, b.z), max(a.w, b.w)}; }
__device__ inline float4 abs(float4 a) { return {fabsf(a.x), fabsf(a.y), fabsf(a.z), fabsf(a.w)}; }
__device__ inline float log(float a) { return __logf(a); }
__device__ inline float quad_shuffle_xor(float a, uint mask) { return __shfl_xor_sync(~0u, a, mask); }
__device__ inline float simd_shuffle_xor(float a, uint mask) { return __shfl_xor_sync(~0u, a, mask); }
enum class mem_flags { mem_threadgroup };
__device__ inline void threadgroup_barrier(mem_flags) { __syncthreads(); }
}
"""

BUILTINS = {
    "group": "metal::uint3{blockIdx.x, blockIdx.y, blockIdx.z}",
    "groups": "metal::uint3{gridDim.x, gridDim.y, gridDim.z}",
    "id": "metal::uint3{threadIdx.x, threadIdx.y, threadIdx.z}",
    "local": "threadIdx.x + threadIdx.y * blockDim.x",
}


def cuda(metal: str) -> str:
    """The kernel of a Metal text as a CUDA text: its function on the device, and a kernel that has the slabs and calls it."""
    text = re.sub(r"^(#include|using) .*$", "", metal, flags=re.M)
    text = re.sub(r"uint (size\d+);", r"Bound \1;", text)
    text = re.sub(r"^.*loop_bound.*\n", "", text, flags=re.M)
    # Comes with the other half of its library; these kernels only read.
    text = re.sub(r"^metal::uint2 pack_f16_\(.*?^}\n", "", text, flags=re.M | re.S)
    # CUDA has a type of this name.
    text = re.sub(r"(?<![:\w])float2\(", "metal::float2(", text)
    # Buffers are arrays of one element that are indexed beyond it.
    text = re.sub(r"typedef (\S+) (type_\d+)\[1\];", r"typedef \1* \2;", text)
    for pointer in re.findall(r"typedef \S+\* (type_\d+);", text):
        text = re.sub(rf"\b{pointer}( const)?& ", f"{pointer} ", text)
    threads = re.search(r"max_total_threads_per_threadgroup\((\d+)\)", text)
    text = re.sub(r"\[\[.*?\]\]", "", text).replace("device ", "").replace("constant ", "const ")
    begin = text.index("kernel void ")
    head, kernel = text[:begin], text[begin:]
    signature = re.match(r"kernel void \w+\((.*?)\n\) \{", kernel, re.S)
    if threads is None or signature is None:
        raise ValueError("no kernel")
    body = kernel[signature.end() :].replace("threadgroup ", "")
    declared, given, outer, slabs = [], [], [], []
    for line in signature[1].strip().split("\n"):
        parameter = line.strip(" ,")
        if not parameter:
            continue
        kind, name = parameter.rsplit(" ", 1)
        name = name.lstrip("&")
        declared.append(parameter.replace("threadgroup ", ""))
        if parameter.startswith("threadgroup "):
            slabs.append(f"__shared__ {kind.split()[1].rstrip('&')} {name};")
        elif name == "_buffer_sizes":
            name = "_mslBufferSizes{}"
        elif name in BUILTINS:
            name = BUILTINS[name]
        else:
            outer.append(f"{kind.replace('const ', '').rstrip('&')} {name}" if "Dims" in kind else f"{kind} __restrict__ {name}")
        given.append(name)
    functions = re.compile(r"^((?:metal::)?(?:float4|float2|uint|float|void|bool|int|uint4)) (\w+)\(", re.M)
    head = functions.sub(r"__device__ inline \1 \2(", head)
    return "\n".join(
        [HEADER, head, f"__device__ inline void body({', '.join(declared)}) {{{body}"]
        + [f'extern "C" __global__ void __launch_bounds__({threads[1]}) kernel_({", ".join(outer)}) {{', *slabs]
        + [f"body({', '.join(given)});", "}"]
    )


def library() -> ctypes.CDLL:
    found = importlib.util.find_spec("nvidia")
    for place in found.submodule_search_locations if found and found.submodule_search_locations else []:
        for path in sorted(Path(place).rglob("libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    sys.exit("nvrtc.py: the package nvidia-cuda-nvrtc is missing")


def compiled(nvrtc: ctypes.CDLL, source: str, chip: str) -> tuple[bool, str]:
    """Whether it compiled, and what the compiler said."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [f"--gpu-architecture={chip}".encode(), b"--ptxas-options=-v", b"-std=c++17", b"-w"]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return failed == 0, log.value.decode()


def figures(nvrtc: ctypes.CDLL, source: str, chip: str) -> tuple[dict[str, int] | None, str]:
    """Registers, bytes of spills and of shared memory, or none; and what the compiler said."""
    good, log = compiled(nvrtc, source, chip)
    patterns = {"registers": r"Used (\d+) registers", "spills": r"(\d+) bytes spill stores", "shared": r"(\d+) bytes smem"}
    found = {name: re.search(pattern, log) for name, pattern in patterns.items()}
    if not good or found["registers"] is None:
        return None, log
    return {name: int(match[1]) if match else 0 for name, match in found.items()}, log


def main() -> int:
    folder, chip = Path(sys.argv[1]), sys.argv[2]
    listed = {line.split(":")[0].removesuffix(".wgsl") for line in Path(sys.argv[3]).read_text().splitlines()}
    nvrtc, failed, chosen = library(), 0, []
    print(f"# NVIDIA {chip} | NVRTC, ptxas")
    print("\t".join(["kernel", "registers", "spills", "lds", "occupancy", "cycles", "instructions", "wave", "milliseconds"]))
    patterns = ["matmul_shared*.metal", "attention_*_shared_*.metal", "attention_decode_tiled_*.metal"]
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        name = path.name.removesuffix(".metal")
        stem, entry = name.rsplit(".", 1)
        if stem not in listed:
            continue
        name = stem if stem.endswith(f".{entry}") else name
        source = cuda(path.read_text())
        first, log = figures(nvrtc, source, chip)
        if first is not None and first["spills"] > 0:
            chosen.append(f"{name}: {first['spills']} bytes with {first['registers']} registers")
            first, log = figures(nvrtc, re.sub(r"__launch_bounds__\((\d+)\)", r"__launch_bounds__(\1, 1)", source), chip)
        if first is None:
            print(f"{path.name}: {log.strip()[:400]}", file=sys.stderr)
            failed += 1
            continue
        print(f"{name}\t{first['registers']}\t{first['spills']}\t{first['shared'] or '-'}\t-\t-\t-\t32\t-")
    if chosen:
        print("Spilled so that another workgroup fits, and not otherwise:\n" + "\n".join(chosen), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
