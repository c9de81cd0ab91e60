"""Plain fit: a folder of images by class and a number of epochs in, the seconds of Keras's own loop out.

The images are read and resized once and kept in memory, which only a small training set allows, and which leaves out
nothing but work. The network is frozen, and goes over every image in every epoch, as a plain `fit` has it.
"""

import sys
import time
from typing import Any

from config.models import MODELS
from workers.cnn.loader import import_keras, load_network
from workers.cnn.preprocess import with_preprocessing
from workers.cnn.recipe import LocalWeights

#: As the training of workers.cnn.finetune has it.
BATCH, RATE, SHARE = 32, 1e-3, 0.2


def main() -> int:
    """Train, and print seconds and val_accuracy."""
    folder, epochs = sys.argv[1], int(sys.argv[2])
    keras = import_keras()
    spec = MODELS["efficientnet_lite0"]
    network = load_network(spec, LocalWeights(kind="packaged"))
    base = keras.Model(network.inputs, network.get_layer("avg_pool").output)
    base.trainable = False
    seeing = with_preprocessing(base, spec)
    seeing.trainable = False
    began = time.perf_counter()
    train, validation = _read(keras, folder, spec.input_size)
    pixels = keras.Input(spec.input_shape, dtype="uint8")
    head = keras.layers.Dense(len(train.class_names), activation="softmax")
    model = keras.Model(pixels, head(seeing(pixels, training=False)))
    model.compile(keras.optimizers.Adam(RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    cached = [_as_bytes(part).cache() for part in (train, validation)]
    history = model.fit(cached[0], validation_data=cached[1], epochs=epochs, verbose=0)
    sys.stdout.write(f"{time.perf_counter() - began} {history.history['val_accuracy'][-1]}\n")
    return 0


def _read(keras: Any, folder: str, side: int) -> Any:
    return keras.utils.image_dataset_from_directory(
        folder,
        image_size=(side, side),
        crop_to_aspect_ratio=True,
        batch_size=BATCH,
        validation_split=SHARE,
        subset="both",
        seed=0,
        verbose=False,
    )


def _as_bytes(batches: Any) -> Any:
    import tensorflow as tf

    return batches.map(lambda images, classes: (tf.cast(images, tf.uint8), classes))


if __name__ == "__main__":
    sys.exit(main())
