"""Nothing in -> the classes of one drawn image, by the worker's own stages: run on a machine before its image is baked.

It needs no bucket and no broker. The weights are random, so it says that decoding, network and labels work here,
and not that the answer is right; those are the job's to choose.
"""

from io import BytesIO

from PIL import Image

from config.messages import Job, Weights
from config.settings import read_settings
from workers.ahead import Budget
from workers.batch import in_batches
from workers.decode import DecodeLimits, decode_images
from workers.describe import classify_images
from workers.infer import InferTimes, infer_batches
from workers.sample import Sample
from workers.workbench import Workbench


def main() -> None:
    """Classify one image, and fail loudly where that does not work."""
    settings = read_settings()
    bench = Workbench(settings)
    job = Job(run_id="verify", model="efficientnet_lite0", weights=Weights(uri="random"), output="s3://none/")
    network = bench.network(job)
    drawn = BytesIO()
    Image.radial_gradient("L").convert("RGB").save(drawn, "JPEG")
    bodies = Budget(settings.fetched_bytes)
    sample = Sample(0, "drawn.jpg", body=drawn.getvalue(), size_bytes=drawn.tell())
    bodies.acquire(sample.index, drawn.tell())
    limits = DecodeLimits(bench.decode_threads, settings.max_image_pixels, settings.decode_pixels)
    batches = in_batches(decode_images([sample], network.spec, limits, bodies), network.engine.batch_size)
    for batch, outputs in infer_batches(network.engine, batches, InferTimes()):
        (columns,) = classify_images(job, network.labels)(outputs)
        assert len(columns["top_k"]) == job.top_k, columns  # noqa: S101
        print(f"{len(batch.decoded)} image classified by {network.engine.name} in {network.engine.precision}")  # noqa: T201


if __name__ == "__main__":
    main()
