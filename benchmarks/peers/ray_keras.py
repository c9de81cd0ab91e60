"""Ray Data with Keras: from a prefix of images in S3 to Parquet in S3; prints one JSON line of what it measured.

The peer that throughput.py compares with, as a careful user of Ray writes it. It knows nothing of pixelherd and
runs from a virtual environment of its own (requirements.txt beside it). The access key comes from
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

What was tried on two cores, and why it is as it is:

* `read_binary_files` and a `map` of our own: JPEGs are decoded at a reduced scale (`draft`) and only the crop is
  resampled; `read_images` decodes them whole. The `download` expression (alpha) brings an actor of its own, which
  beside the network's left no CPU for the reading tasks: nothing moved until the time was over.
* Reading and decoding ask for half a CPU: so they are fused, and go on beside the actor that holds the network.
* A block of 32 images: Ray's default is 200 tasks, which cost 6 s of CPU more for 200 images.
* `predict_on_batch`: as cheap as a tf.function, compiled by XLA or not; a plain call of the model, which runs each
  operation by itself, takes up to twice the CPU.
* One actor with all cores; `--actors 2` divides the cores among two, and each imports TensorFlow.
"""

import argparse
import io
import json
import os
import tempfile
import time
from typing import Any

BEGAN = time.time()
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np  # noqa: E402 - Ray and its like are part of the start that is measured
import pyarrow.dataset  # noqa: E402
import pyarrow.fs  # noqa: E402
import ray  # noqa: E402
from PIL import Image  # noqa: E402

LOOPBACK = "127.0.0.1"

#: Network -> its function and its module of preprocess_input in keras.applications, and its input size.
NETWORKS = {
    "resnet50": ("ResNet50", "resnet50", 224),
    "vgg19": ("VGG19", "vgg19", 224),
    "inception_v3": ("InceptionV3", "inception_v3", 299),
}

#: Keras's own ratio of the shorter side to the crop.
CROP_RATIO = 256 / 224

#: Decode a JPEG at 1/2, 1/4 or 1/8 where so many times the pixels needed are left.
REDUCING_GAP = 2.0

#: Images of one block; a block is what a reading task gives to the actor.
BLOCK_IMAGES = 32

TOP_K = 5


def decode(row: dict[str, Any], size: int) -> dict[str, Any]:
    """An image's bytes to the centre crop that the network sees: uint8, size × size × 3."""
    image = Image.open(io.BytesIO(row["bytes"]))
    side = round(size * CROP_RATIO)
    gap = side * REDUCING_GAP / min(image.size)
    image.draft("RGB", (max(1, round(image.width * gap)), max(1, round(image.height * gap))))
    width, height = image.size
    scale = side / min(width, height)
    across, down = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (across - size) // 2, (down - size) // 2
    box = (
        left * width / across,
        top * height / down,
        (left + size) * width / across,
        (top + size) * height / down,
    )
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
    return {"key": row["path"], "image": np.asarray(resized)}


class Network:
    """One actor: a Keras network in float32, built once; batches of pixels in, the best classes out."""

    def __init__(self, name: str, threads: int) -> None:
        import keras
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        function, module, size = NETWORKS[name]
        keras.utils.set_random_seed(0)
        pixels = keras.Input((size, size, 3), dtype="uint8")
        scaled = getattr(keras.applications, module).preprocess_input(keras.ops.cast(pixels, "float32"))
        network = getattr(keras.applications, function)(weights=None, input_shape=(size, size, 3))
        self._model = keras.Model(pixels, network(scaled))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Keys and pixels to keys, class numbers and scores; `at` is when the batch was done."""
        scores = self._model.predict_on_batch(batch["image"])
        numbers = np.argsort(-scores, axis=1)[:, :TOP_K]
        return {
            "key": batch["key"],
            "class": numbers,
            "score": np.take_along_axis(scores, numbers, axis=1),
            "at": np.full(len(scores), time.time()),
        }


def parse_arguments() -> argparse.Namespace:
    """What to read, where to write, and how to use the cores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--endpoint", required=True, help="URL of the S3 server")
    parser.add_argument("--source", required=True, help="bucket/prefix/ of the images")
    parser.add_argument("--output", required=True, help="bucket/prefix/ for the Parquet files")
    parser.add_argument("--images", type=int, required=True, help="images under the prefix")
    parser.add_argument("--model", choices=sorted(NETWORKS), default="resnet50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--actors", type=int, default=1, help="the cores are divided among them")
    return parser.parse_args()


def make_filesystem(endpoint: str) -> pyarrow.fs.S3FileSystem:
    """The S3 server as Arrow and Ray see it."""
    scheme, _, address = endpoint.partition("://")
    return pyarrow.fs.S3FileSystem(
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=address,
        scheme=scheme,
        region="us-east-1",
    )


def classify(asked: argparse.Namespace, filesystem: pyarrow.fs.S3FileSystem) -> None:
    """S3 -> decode -> network -> Parquet in S3."""
    size = NETWORKS[asked.model][2]
    images = ray.data.read_binary_files(
        asked.source,
        filesystem=filesystem,
        include_paths=True,
        num_cpus=0.5,
        override_num_blocks=max(1, asked.images // BLOCK_IMAGES),
    )
    rows = images.map(decode, fn_kwargs={"size": size}, num_cpus=0.5).map_batches(
        Network,
        fn_constructor_args=(asked.model, max(1, asked.cores // asked.actors)),
        batch_size=asked.batch_size,
        compute=ray.data.ActorPoolStrategy(size=asked.actors),
        num_cpus=1 / asked.actors,
    )
    rows.write_parquet(asked.output, filesystem=filesystem)


def main() -> None:
    """Run once and print the figures."""
    asked = parse_arguments()
    filesystem = make_filesystem(asked.endpoint)
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        ray.init(
            num_cpus=asked.cores,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address=LOOPBACK,
            _temp_dir=directory,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        classify(asked, filesystem)
        written_at = time.time()
        ray.shutdown()
    written = pyarrow.dataset.dataset(asked.output, filesystem=filesystem, format="parquet")
    at = written.to_table(columns=["at"])["at"].to_numpy()
    first = at.min()
    figures = {
        "images": len(at),
        "written_at": written_at,
        "seconds": written_at - BEGAN,
        "to_first_batch_s": first - BEGAN,
        # The first batch's own time is part of the start: the network is compiled then.
        "steady_images_per_s": int((at > first).sum()) / (at.max() - first) if at.max() > first else None,
        "versions": {"ray": ray.__version__, "pyarrow": pyarrow.__version__, "numpy": np.__version__},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
