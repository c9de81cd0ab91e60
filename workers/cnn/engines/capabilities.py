"""What this machine can compute: the engine and the precision to take, from what the kernel tells, nothing imported."""

from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from config.errors import SettingsError
from config.messages import Engine as EngineName
from config.messages import Precision

#: What AUTO takes, the first that the machine has.
PREFERRED_PRECISIONS = (Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32)

#: What the NVIDIA driver puts there; the first is made on the first use of the GPU, the second with the driver.
GPU_SIGNS = ("dev/nvidiactl", "proc/driver/nvidia/gpus")

#: CPU flags of x86-64 and of Arm that mean bfloat16 in hardware.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_engine(engine: EngineName, root: Path = Path("/")) -> EngineName:
    """AUTO becomes tensorflow where there is a GPU and a TensorFlow that can use it, else openvino."""
    if engine is not EngineName.AUTO:
        return engine
    has_gpu = any((root / sign).exists() for sign in GPU_SIGNS)
    return EngineName.TENSORFLOW if has_gpu and _is_installed("tensorflow") else EngineName.OPENVINO


def resolve_precision(asked: Precision, possible: Collection[Precision], device: str) -> Precision:
    """AUTO becomes the fastest of the possible ones; SettingsError for one that this device does not have."""
    if asked is Precision.AUTO:
        return next(precision for precision in PREFERRED_PRECISIONS if precision in possible)
    if asked not in possible:
        offer = ", ".join(precision for precision in PREFERRED_PRECISIONS if precision in possible)
        raise SettingsError(f"precision {asked}: {device} has none in hardware; take {offer} or auto")
    return asked


def cpu_precisions(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[Precision]:
    """The precisions that TensorFlow can use on this CPU."""
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags.update(value.split())
    return {Precision.FLOAT32, Precision.BFLOAT16} if flags & BFLOAT16_FLAGS else {Precision.FLOAT32}


def _is_installed(distribution: str) -> bool:
    """tensorflow-cpu is another distribution of the same modules, and cannot use a GPU."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
