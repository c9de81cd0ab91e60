"""Nothing in -> the classes of one drawn image, by the worker's own stages: run on a machine before its image is baked.

It needs no bucket and no broker. The weights are those of the worker's own packages, so the answer is known: a drawn
envelope is an envelope.
"""

from io import BytesIO

from PIL import Image, ImageDraw

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
    job = Job(run_id="verify", model="efficientnet_lite0", weights=Weights(uri="packaged"), output="s3://none/")
    network = bench.network(job)
    drawn = draw_envelope()
    bodies = Budget(settings.fetched_bytes)
    sample = Sample(0, "drawn.jpg", body=drawn.getvalue(), size_bytes=drawn.tell())
    bodies.acquire(sample.index, drawn.tell())
    limits = DecodeLimits.of(settings, bench.decode_threads)
    batches = in_batches(decode_images([sample], network.spec, limits, bodies), network.engine.batch_size)
    for batch, outputs in infer_batches(network.engine, batches, InferTimes()):
        (columns,) = classify_images(job, network.labels)(outputs, batch.decoded)
        said, score, engine = columns["class_name"], columns["score"], network.engine
        assert len(columns["top_k"]) == job.top_k, columns  # noqa: S101
        print(f"{len(batch.decoded)} image classified as {said} ({score:.2f}) by {engine.name} in {engine.precision}")  # noqa: T201


def draw_envelope() -> BytesIO:
    """A JPEG; efficientnet_lite0 is 0.67 sure of it, and 0.21 of the next class."""
    image = Image.new("RGB", (320, 320), (120, 90, 60))
    pen = ImageDraw.Draw(image)
    pen.rectangle((30, 80, 290, 240), fill=(250, 245, 230), outline="black")
    pen.line((30, 80, 160, 170, 290, 80), fill="gray", width=3)
    written = BytesIO()
    image.save(written, "JPEG", quality=95)
    return written


if __name__ == "__main__":
    main()
