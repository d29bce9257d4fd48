"""The job as many write it against S3: boto3_job.py BUCKET IMAGES OUT COMPONENTS.

On the driver, with no Spark and no s3a: one image at a time through boto3's client and Keras, a CSV object for each,
then scikit-learn and one CSV of vectors. The endpoint comes from AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import io
import os
import sys

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import botocore.session
import keras
import numpy as np
import pandas as pd
from keras.applications.mobilenet_v2 import MobileNetV2, preprocess_input
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

bucket, images, out, components = sys.argv[1:]
s3 = botocore.session.get_session().create_client("s3", region_name="us-east-1")  # what boto3.client("s3") is
network = MobileNetV2(weights="imagenet")
model = keras.Model(network.input, network.layers[-2].output)

keys = []
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{images}/"):
    keys += [each["Key"] for each in page.get("Contents", []) if each["Key"].endswith(".jpg")]

features = []
for key in keys:
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224)), np.float32)
    features.append(model.predict(preprocess_input(pixels[np.newaxis]), verbose=0)[0])
    row = ",".join(map(str, [key, key.split("/")[-2], *features[-1]]))
    s3.put_object(Bucket=bucket, Key=f"{out}/features/{key}.csv", Body=row.encode())

vectors = PCA(int(components)).fit_transform(StandardScaler().fit_transform(np.stack(features)))
table = pd.DataFrame(vectors).assign(path=keys, label=[key.split("/")[-2] for key in keys])
s3.put_object(Bucket=bucket, Key=f"{out}/vectors.csv", Body=table.to_csv(index=False).encode())
