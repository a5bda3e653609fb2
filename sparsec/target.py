"""What a model is compiled for: frozen descriptions of targets and the machine at hand.

Code outside `backends/` never asks which target it has, only what the target can do: `target.lanes`,
`target.has("avx512_vnni")`.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from sparsec.errors import UsageError, meant


@dataclass(frozen=True)
class Target:
    """One compilation target.

    Attributes:
        name: what `--target` takes.
        kind: the backend that serves it: "cpu", "cuda", "eie" or "accelerator".
        mcpu: LLVM's processor name ("" where it does not apply).
        mattr: LLVM's features beyond that processor's.
        machine: the architecture that code is for, as `uname -m` has it; other kinds than CPUs run from x86_64.
        archs: the CUDA architectures that the artifact holds code for, the one that kernels are chosen for first.
        design: the microarchitecture whose rates price kernels on other machines, "" for the default.
        features: instruction-set features by their Linux names ("avx512f", "avx512_vnni", …); of GPUs the `LIBRARIES`
            that the machine has.
        vector_bits: width of a vector register; 0 where there are none, and activations keep ONNX's layout.
        l1_bytes, l2_bytes: data cache per core.
        halves: operations on whole vector registers are done in two, so that half a register takes half the time.

    """

    name: str
    kind: str
    mcpu: str = ""
    mattr: tuple[str, ...] = ()
    machine: str = "x86_64"
    design: str = ""
    archs: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()
    vector_bits: int = 128
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    halves: bool = False

    @property
    def lanes(self) -> int:
        """float32 elements of one vector register."""
        return self.vector_bits // 32

    def has(self, feature: str) -> bool:
        """Whether the processor has an instruction-set feature, by its Linux name."""
        return feature in self.features


AVX2_FEATURES = frozenset({"sse4_2", "avx", "avx2", "fma", "f16c"})
AVX512_FEATURES = AVX2_FEATURES | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}

NEON_FEATURES = frozenset({"asimd", "fphp", "asimdhp", "asimddp"})
"""Armv8.2 with half precision and dot products of bytes: Neoverse N1 (Graviton2, Ampere Altra), Apple M1, and later."""
NEON_BF16_FEATURES = NEON_FEATURES | {"bf16", "i8mm"}
"""Armv8.6: Neoverse V1, N2 and V2 (Graviton3 and 4, Grace), Apple M2, and later."""
SVE_256 = "sve256"
"""The feature that scalable vectors hold 256 bits, which Linux tells beside the flags: Neoverse V1 (Graviton3)."""
SVE_256_BYTES = 32
_PR_SVE_GET_VL = 51
ZEN4, ZEN4_BITS = ("AuthenticAMD", 0x19), 512
"""The vendor and family whose members with AVX-512 are Zen 4s, with units of 256 bits for vectors of 512."""
SVE_FEATURES = NEON_BF16_FEATURES | {"sve", SVE_256}

AMX = "amx"
"""What the names of the features of tiles begin with; Linux permits them to processes that ask."""
AMX_FEATURES = AVX512_FEATURES | {"avx512_vnni", "avx512_bf16", "avx512vbmi", "avx512_vbmi2",
                                  "amx_tile", "amx_int8", "amx_bf16"}
"""Sapphire Rapids and later."""
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18

CUDA_ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90")
"""The architectures that kernels are made for; sparse tensor cores begin with the first."""

CUBLASLT = "cublaslt"
LIBRARIES = {CUBLASLT: "nvidia-cublas"}
"""NVIDIA's libraries that kernels may call, as targets name them, with the packages that hold them."""

SIMULATED = ("spec2", "spectral-cnn")
"""Accelerators that models are simulated on and not compiled for."""

ACCELERATORS = (
    "cnvlutin", "minerva", "cambricon-x", "eyeriss", "ese", "scnn", "sparsenn", "cambricon-s", "zena", "eyeriss-v2",
    "sparten", "masr", "eager-pruning", "sigma", "procrustes", "dense", "dadiannao", "diannao", "dcnn", "systolic",
    "ampere",
)
"""The simulated accelerators that models compile for, beside EIE; `backends.accelerators.designs` describes them."""

_FIXED = {
    "cpu-generic": Target("cpu-generic", "cpu", mcpu="x86-64"),
    "cpu-avx2": Target("cpu-avx2", "cpu", mcpu="x86-64-v3", features=AVX2_FEATURES, vector_bits=256),
    "cpu-avx512": Target("cpu-avx512", "cpu", mcpu="x86-64-v4", features=AVX512_FEATURES, vector_bits=512),
    "cpu-amx": Target("cpu-amx", "cpu", mcpu="x86-64-v4", design="sapphire-rapids", features=AMX_FEATURES,
                      mattr=("+avx512vnni", "+avx512bf16", "+avx512vbmi", "+avx512vbmi2", "+amx-tile", "+amx-int8",
                             "+amx-bf16"),
                      vector_bits=512, l1_bytes=48 * 1024, l2_bytes=2 * 1024 * 1024),
    "cpu-neon": Target("cpu-neon", "cpu", mcpu="neoverse-n1", machine="aarch64", design="neoverse-v2",
                       features=NEON_FEATURES, l1_bytes=64 * 1024, l2_bytes=1024 * 1024),
    "cpu-neon-bf16": Target("cpu-neon-bf16", "cpu", mcpu="generic", mattr=("+v8.6a", "+fullfp16"), machine="aarch64",
                            design="neoverse-v2", features=NEON_BF16_FEATURES, l1_bytes=64 * 1024,
                            l2_bytes=1024 * 1024),
    "cpu-sve": Target("cpu-sve", "cpu", mcpu="neoverse-v1", machine="aarch64", design="neoverse-v1",
                      features=SVE_FEATURES, vector_bits=256, l1_bytes=64 * 1024, l2_bytes=1024 * 1024),
    "eie": Target("eie", "eie", vector_bits=0),
    **{name: Target(name, "accelerator", vector_bits=0) for name in ACCELERATORS},
    **{f"cuda-{arch.replace('_', '')}": Target(f"cuda-{arch.replace('_', '')}", "cuda", archs=(arch,), vector_bits=0)
       for arch in CUDA_ARCHS},
}

TARGET_NAMES = ("cpu", *_FIXED)


@functools.cache
def machine_features() -> frozenset[str]:
    """Instruction-set features of the machine that runs this, by their Linux names (empty where unknown).

    Tiles count where the kernel permits them: this asks for all threads of the process, now and later, and for those
    that it forks.
    """
    found = frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())
    if "amx_tile" in found and not _permits_tiles():
        found = frozenset(each for each in found if not each.startswith(AMX))
    return found | {SVE_256} if "sve" in found and _sve_bytes() == SVE_256_BYTES else found


def _permits_tiles() -> bool:
    """Whether this process may use AMX's tiles, from now on. Source: Linux, Documentation/arch/x86/xstate.rst."""
    answer: int = ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
    return answer == 0


def _sve_bytes() -> int:
    """Bytes of this process's scalable vectors. Source: Linux, Documentation/arch/arm64/sve.rst."""
    answer: int = ctypes.CDLL(None).prctl(_PR_SVE_GET_VL, 0, 0, 0, 0)
    return answer & 0xFFFF


def lacking(target: Target) -> frozenset[str]:
    """What this machine lacks to run a target's programs: the architecture alone where it is another."""
    if target.machine != platform.machine():
        return frozenset({target.machine})
    return target.features - machine_features()


@functools.cache
def machine_family() -> tuple[str, int, int]:
    """What CPUID says of the processor: its vendor, family and model ("" and zeros where that is unknown).

    On ARM, what MIDR_EL1 says: the implementer's number as Linux writes it, the architecture and the part.
    """
    keys = ("CPU implementer", "CPU architecture", "CPU part") if "asimd" in machine_features() else (
        "vendor_id", "cpu family", "model")
    vendor, *numbers = map(_cpuinfo, keys)
    try:
        family, model = (int(each, 0) for each in numbers)
    except ValueError:
        return "", 0, 0
    return vendor, family, model


@functools.cache
def machine_name() -> str:
    """The processor's name with its family and model, the key under which what was measured is kept.

    Cloud machines call several generations by one name.
    """
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    vendor, family, model = machine_family()
    return f"{name}, family {family} model {model}" if vendor else name


def _cpuinfo(key: str) -> str:
    """A field of the first processor, "" where it is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


def _cache_bytes(level: int, default: int) -> int:
    """Size of core 0's data cache of a level, read from sysfs."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if int((index / "level").read_text()) == level and (index / "type").read_text().strip() != "Instruction":
                return int((index / "size").read_text().strip().removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return default


@functools.cache
def _host() -> Target:
    """The machine at hand, at the widest vector set that sparsec has kernels for."""
    features, machine = machine_features(), platform.machine()
    widest = [name for name in ("cpu-avx512", "cpu-avx2", "cpu-sve", "cpu-neon-bf16", "cpu-neon")
              if _FIXED[name].machine == machine and features >= _FIXED[name].features]
    base = _FIXED[widest[0]] if widest else replace(_FIXED["cpu-generic"], machine=machine)
    return replace(base, name="cpu", features=features | base.features,
                   halves=base.vector_bits == ZEN4_BITS and machine_family()[:2] == ZEN4,
                   l1_bytes=_cache_bytes(1, base.l1_bytes), l2_bytes=_cache_bytes(2, base.l2_bytes))


def resolve(name: str | Target) -> Target:
    """The target of that name; `cpu` is the machine at hand, and `cuda-sm80+sm90` one for several architectures.

    `cuda-sm90+cublaslt` is a GPU beside which there is a library.

    Raises:
        UsageError: no such target; the message lists those there are.

    """
    if isinstance(name, Target):
        return name
    if name == "cpu":
        return _host()
    if name.startswith("cuda-"):
        return _cuda(name)
    if name in SIMULATED:
        raise UsageError(f"'{name}' is simulated, and nothing is compiled for it: `sparsec simulate MODEL --target "
                         f"{name}`")
    if name not in _FIXED:
        raise UsageError(f"unknown target '{name}'; {meant(name, TARGET_NAMES)}the targets are "
                         f"{', '.join(TARGET_NAMES)}")
    return _FIXED[name]


def is_target(name: str) -> bool:
    """Whether there is a target of that name."""
    try:
        resolve(name)
    except UsageError:
        return False
    return True


def kind_of(name: str) -> str:
    """The kind of the target of a name; of one that is not known, what it begins with."""
    return _FIXED[name].kind if name in _FIXED else name.partition("-")[0]


def cuda_archs(name: str) -> tuple[str, ...]:
    """The architectures that the name of a CUDA target lists, none for another target's."""
    if not name.startswith("cuda-"):
        return ()
    parts = name.removeprefix("cuda-").split("+")
    return tuple(dict.fromkeys(part.replace("sm", "sm_") for part in parts if part not in LIBRARIES))


def function_of(library: str) -> str:
    """The name that kernels call a library by, among TVM's functions."""
    return f"sparsec.{library}"


def _cuda(name: str) -> Target:
    """The CUDA target of one architecture or of several."""
    archs = cuda_archs(name)
    if unknown := [arch for arch in archs if arch not in CUDA_ARCHS] or [""] * (not archs):
        raise UsageError(f"target '{name}': no kernels for {unknown[0] or 'no architecture'}; sparse tensor cores "
                         f"begin with sm_80, the architectures are {', '.join(CUDA_ARCHS)}, cuda-sm80+sm90 is for two "
                         f"of them, and cuda-sm90+{CUBLASLT} for a machine with that library, too")
    return Target(name, "cuda", archs=archs, features=frozenset(LIBRARIES).intersection(name.split("+")), vector_bits=0)
