"""Which engine and precision a machine gets, from what its kernel would tell."""

import pytest

from config.errors import SettingsError
from config.messages import Engine as EngineName
from config.messages import Precision
from workers.cnn.engines.capabilities import cpu_precisions, resolve_engine, resolve_precision
from workers.cnn.recipe import library_versions

#: Flags as /proc/cpuinfo has them: Xeon 8259CL, EPYC 9R14, Xeon 8488C, Graviton 3.
CPUS = {
    "flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni": False,
    "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni": True,
    "flags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8": True,
    "Features\t: fp asimd sve i8mm bf16 dgh": True,
}


@pytest.mark.parametrize(("line", "has_bfloat16"), CPUS.items())
def test_bfloat16_is_seen_in_the_flags(tmp_path, line, has_bfloat16):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: bf16 avx512_bf16\n{line}\n\n")
    assert (Precision.BFLOAT16 in cpu_precisions(cpuinfo)) == has_bfloat16


def test_a_machine_without_proc_has_float32(tmp_path):
    assert cpu_precisions(tmp_path / "none") == {Precision.FLOAT32}


@pytest.mark.parametrize(
    ("possible", "chosen"),
    [
        ({Precision.FLOAT32}, Precision.FLOAT32),
        ({Precision.FLOAT32, Precision.BFLOAT16}, Precision.BFLOAT16),
        ({Precision.FLOAT32, Precision.FLOAT16}, Precision.FLOAT16),
    ],
)
def test_auto_is_the_fastest_that_there_is(possible, chosen):
    assert resolve_precision(Precision.AUTO, possible, "it") is chosen
    assert resolve_precision(Precision.FLOAT32, possible, "it") is Precision.FLOAT32


def test_an_impossible_precision_is_refused_with_what_there_is():
    with pytest.raises(SettingsError, match="precision bfloat16: this CPU has none in hardware; take float32 or auto"):
        resolve_precision(Precision.BFLOAT16, {Precision.FLOAT32}, "this CPU")


def test_openvino_runs_where_there_is_no_gpu(tmp_path):
    assert resolve_engine(EngineName.AUTO, tmp_path) is EngineName.OPENVINO


@pytest.mark.parametrize("sign", ["dev/nvidiactl", "proc/driver/nvidia/gpus"])
def test_tensorflow_runs_where_it_can_use_a_gpu(tmp_path, sign):
    (tmp_path / sign).mkdir(parents=True)
    usable = "tensorflow" in library_versions()
    assert resolve_engine(EngineName.AUTO, tmp_path) is (EngineName.TENSORFLOW if usable else EngineName.OPENVINO)


@pytest.mark.parametrize("engine", [EngineName.OPENVINO, EngineName.TENSORFLOW])
def test_what_is_asked_for_is_taken(tmp_path, engine):
    assert resolve_engine(engine, tmp_path) is engine
