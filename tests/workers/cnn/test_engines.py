"""Real networks in real engines: both compute the same, whatever stands beside an image, and no half is ever seen."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from config.errors import ContractError, SettingsError
from config.messages import Engine as EngineName
from config.messages import Precision
from workers.cnn.engines import make_engine
from workers.cnn.engines.capabilities import cpu_precisions
from workers.cnn.engines.converted import IR_FILE, find_or_convert
from workers.cnn.loader import load_recipe
from workers.cnn.recipe import LocalWeights

ROOT = Path(__file__).parents[3]
BOTH = [EngineName.OPENVINO, EngineName.TENSORFLOW]
NETWORKS = ["efficientnet_lite0", "resnet50"]


@pytest.fixture(scope="session")
def converted_tiny(recipes, cache_dir):
    """Three ask for a network at once, where a conversion was killed before."""
    recipe = recipes["tiny"]
    half = cache_dir / "networks" / f".tiny-{recipe.digest[:16]}.half"
    half.mkdir(parents=True)
    (half / IR_FILE).write_text("<net")
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: find_or_convert(recipe, cache_dir), range(3)))


@pytest.fixture(scope="session")
def engine_of(recipes, make_options, converted_tiny):
    """Engines in float32 for batches of 4, each made once in a session."""
    made = {}

    def engine(name, kind):
        if (name, kind) not in made:
            made[name, kind] = make_engine(recipes[name], make_options(kind))
        return made[name, kind]

    return engine


def run(engine, *batches):
    return [outputs[0] for outputs in engine.run(batches)]


@pytest.mark.parametrize("name", NETWORKS)
def test_engines_agree(engine_of, recipes, draw_images, name):
    images = draw_images(4, recipes[name].spec.input_size)
    ours, theirs = (run(engine_of(name, kind), images)[0] for kind in BOTH)
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape == (4, 1000)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-4)
    assert len(np.unique(ours, axis=0)) == 4


@pytest.mark.parametrize("kind", BOTH)
def test_engines_compute_what_keras_does_in_the_order_asked_for(engine_of, recipes, draw_images, kind):
    images = draw_images(3, 16)
    network, names = load_recipe(recipes["tiny"])
    engine = engine_of("tiny", kind)
    assert (engine.name, engine.precision, engine.batch_size) == (kind, Precision.FLOAT32, 4)
    assert engine.output_names == names == ("classes", "conv", "pool")
    assert engine.output_shapes == ((5,), (14, 14, 4), (4,))
    [outputs] = engine.run([images])
    for ours, keras_own in zip(outputs, network(images), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_do_not_depend_on_neighbours_or_place(engine_of, recipes, draw_images, name, kind):
    images = draw_images(8, recipes[name].spec.input_size, seed=5)
    engine = engine_of(name, kind)
    alone, full, turned, short = run(engine, images[:1], images[:4], images[3::-1], images[[6, 0, 7]])
    for scores in (full[0], turned[3], short[1]):
        assert scores.tobytes() == alone[0].tobytes()


@pytest.mark.parametrize("kind", BOTH)
def test_outputs_keep_their_order_and_their_memory(engine_of, draw_images, kind):
    engine = engine_of("tiny", kind)
    images = draw_images(40, 16, seed=2)
    batches = [images[start : start + 3] for start in range(0, 40, 3)]
    together = np.concatenate(run(engine, *batches))
    np.testing.assert_array_equal(together, np.concatenate([run(engine, batch)[0] for batch in batches]))


@pytest.mark.parametrize("kind", BOTH)
def test_several_threads_can_run_batches_at_once(engine_of, draw_images, kind):
    engine = engine_of("tiny", kind)
    sets = [draw_images(12, 16, seed=seed).reshape(3, 4, 16, 16, 3) for seed in range(4)]
    one_by_one = [run(engine, *batches) for batches in sets]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda batches: run(engine, *batches), sets))
    np.testing.assert_array_equal(at_once, one_by_one)


@pytest.mark.parametrize("kind", BOTH)
def test_an_engine_goes_on_after_its_caller_stopped(engine_of, draw_images, kind):
    engine = engine_of("tiny", kind)
    images = draw_images(4, 16)
    wanted = run(engine, images)[0]
    stopped = engine.run([images, 255 - images, images])
    next(stopped)
    stopped.close()
    np.testing.assert_array_equal(run(engine, images)[0], wanted)


@pytest.mark.parametrize("kind", BOTH)
def test_bfloat16_is_refused_where_the_cpu_has_none(recipes, converted_tiny, make_options, draw_images, kind):
    recipe = recipes["tiny"]
    images = draw_images(2, 16)
    if Precision.BFLOAT16 in cpu_precisions():
        engine = make_engine(recipe, make_options(kind, Precision.BFLOAT16))
        assert engine.precision is Precision.BFLOAT16
        np.testing.assert_allclose(run(engine, images)[0].sum(axis=1), 1, atol=0.02)
    else:
        with pytest.raises(SettingsError, match=r"bfloat16: .* has none in hardware; take float32 or auto"):
            make_engine(recipe, make_options(kind, Precision.BFLOAT16))
        engine = make_engine(recipe, make_options(kind, Precision.AUTO))
        assert engine.precision is Precision.FLOAT32


def test_an_openvino_process_loads_neither_keras_nor_tensorflow_nor_telemetry(recipes, converted_tiny, make_options):
    program = f"""
import sys
from pathlib import Path
import numpy as np
from config.messages import Engine, Precision
from workers.cnn.engines import EngineOptions, make_engine
from workers.cnn.recipe import NetworkRecipe

recipe = NetworkRecipe.model_validate_json({recipes["tiny"].model_dump_json()!r})
engine = make_engine(recipe, EngineOptions(Engine.AUTO, Precision.AUTO, 4, Path({str(make_options().cache_dir)!r})))
assert engine.name == Engine.OPENVINO
assert [outputs[0].shape for outputs in engine.run([np.zeros((2, 16, 16, 3), np.uint8)])] == [(2, 5)]
loaded = {{name.partition(".")[0] for name, module in sys.modules.items() if module is not None}}
print(sorted(loaded & {{"keras", "openvino", "openvino_telemetry", "tensorflow", "torch"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['openvino']\n"), done.stderr


def test_processes_that_need_a_network_at_once_convert_it_once(converted_tiny):
    assert len(set(converted_tiny)) == 1
    # A second conversion would find the place taken and fail.
    assert sorted(entry.name for entry in converted_tiny[0].iterdir()) == ["network.bin", IR_FILE, "outputs.json"]


def test_nothing_is_left_of_a_conversion_that_was_killed(converted_tiny):
    place = converted_tiny[0]
    assert sorted(entry.name for entry in place.parent.glob(f"*{place.name}*")) == [place.name, f"{place.name}.lock"]


def test_unfit_weights_are_refused_in_the_words_of_the_process_that_read_them(tmp_path, make_options, tiny_recipe):
    file = tmp_path / "cut.keras"
    file.write_bytes(tiny_recipe.weights.path.read_bytes()[:2000])
    recipe = tiny_recipe.model_copy(update={"weights": LocalWeights(kind="file", path=file)})
    with pytest.raises(ContractError, match=r"weights cut\.keras cannot be loaded as tiny"):
        make_engine(recipe, make_options())


def test_a_conversion_that_fails_says_why(tiny_recipe, tmp_path):
    (tmp_path / "networks").mkdir()
    blocked = tmp_path / "networks" / f"tiny-{tiny_recipe.digest[:16]}"
    blocked.write_text("a file where the directory should be")
    with pytest.raises(SettingsError, match=r"(?s)converting tiny ended with code 1: .*NotADirectoryError"):
        find_or_convert(tiny_recipe, tmp_path)
