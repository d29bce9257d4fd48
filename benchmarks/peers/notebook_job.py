"""The job as Spark notebooks do it today: notebook_job.py IMAGES OUT COMPONENTS [--features-only] [--tuned].

Image bytes through the JVM into an iterator pandas UDF, Keras in every worker, MLlib for the rest. Prints the seconds
that the cell took which writes the features. As such notebooks are published for one machine: master `local`, 24
partitions, each of which builds the model with its ImageNet weights and then sets the driver's, vectors by a UDF,
TensorFlow and Arrow as they come. With --tuned, as somebody would have it who has measured: a task slot for each core,
one TensorFlow thread and two partitions for each slot, no weights loaded twice, Arrow batches of 256 images, no UDF for
what MLlib has a function for.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator

os.environ |= {"PYSPARK_PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import numpy as np
import pandas as pd
from keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml.feature import PCA, StandardScaler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import SparkSession
from pyspark.sql.functions import element_at, pandas_udf, split, udf

SLOTS = os.cpu_count() or 1

images, out, components, *options = sys.argv[1:]
TUNED = "--tuned" in options

spark = (
    SparkSession.builder.appName("notebook")
    .master(f"local[{SLOTS}]" if TUNED else "local")
    .config("spark.driver.memory", "4g")
    .config("spark.sql.execution.arrow.maxRecordsPerBatch", "256" if TUNED else "10000")
    .getOrCreate()
)

photographs = (
    spark.read.format("binaryFile")
    .option("pathGlobFilter", "*.jpg")
    .option("recursiveFileLookup", "true")
    .load(images)
    .withColumn("label", element_at(split("path", "/"), -2))
)

weights = spark.sparkContext.broadcast(MobileNetV2(weights="imagenet").get_weights())


def build() -> keras.Model:
    """The network up to its last layer but one, with the driver's weights."""
    import tensorflow as tf

    if TUNED:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    model = MobileNetV2(weights=None if TUNED else "imagenet")
    model.set_weights(weights.value)
    return keras.Model(model.input, model.layers[-2].output)


def preprocess(content: bytes) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224))
    return preprocess_input(np.asarray(image, np.float32))


@pandas_udf("array<float>")
def featurize(contents: Iterator[pd.Series]) -> Iterator[pd.Series]:
    model = build()
    for content in contents:
        features = model.predict(np.stack(content.map(preprocess)), verbose=0)
        yield pd.Series(list(features))


to_vector = array_to_vector if TUNED else udf(Vectors.dense, VectorUDT(), useArrow=False)

start = time.perf_counter()
partitions = 2 * SLOTS if TUNED else 24
features = photographs.repartition(partitions).select("path", "label", featurize("content").alias("features"))
features.withColumn("features", to_vector("features")).write.parquet(f"{out}/features")
print(time.perf_counter() - start)

if "--features-only" not in options:
    table = spark.read.parquet(f"{out}/features")
    scaler = StandardScaler(withMean=True, withStd=True, inputCol="features", outputCol="scaled").fit(table)
    scaled = scaler.transform(table)
    reduced = PCA(k=int(components), inputCol="scaled", outputCol="reduced").fit(scaled).transform(scaled)
    reduced.select("path", "label", vector_to_array("reduced", "float32").alias("vector")).write.parquet(
        f"{out}/vectors"
    )

spark.stop()
