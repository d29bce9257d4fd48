"""Bags of ORB's words as many write them against S3: orb_job.py BUCKET IMAGES OUT [twice].

On the driver: one image at a time through boto3's client and OpenCV, then MiniBatchKMeans on all descriptors as the
bytes that they are, a CSV object of each image's histogram, and one CSV of vectors. Descriptors stay in memory, as is
usual where they fit; with `twice`, histograms come from images that are read again. The endpoint comes from
AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import sys

import botocore.session
import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

WORDS, KEYPOINTS, SIDE = 48, 500, 320

bucket, images, out, *twice = sys.argv[1:]
s3 = botocore.session.get_session().create_client("s3", region_name="us-east-1")  # what boto3.client("s3") is
orb = cv2.ORB_create(KEYPOINTS)

keys = []
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{images}/"):
    keys += [each["Key"] for each in page.get("Contents", []) if each["Key"].endswith(".jpg")]


def describe(key: str) -> NDArray[np.uint8]:
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    grey = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    _, found = orb.detectAndCompute(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), None)
    return np.zeros((0, 32), np.uint8) if found is None else found


descriptors = [describe(key) for key in keys]
words = MiniBatchKMeans(WORDS, random_state=0).fit(np.concatenate(descriptors).astype(np.float32))

histograms = np.zeros((len(keys), WORDS))
again = map(describe, keys) if twice else descriptors
for key, found, histogram in zip(keys, again, histograms, strict=True):
    if len(found):
        histogram[:] = np.bincount(words.predict(found.astype(np.float32)), minlength=WORDS)
    row = ",".join(map(str, [key, key.split("/")[-2], *histogram]))
    s3.put_object(Bucket=bucket, Key=f"{out}/features/{key}.csv", Body=row.encode())

vectors = PCA(0.95).fit_transform(StandardScaler().fit_transform(histograms))
table = pd.DataFrame(vectors).assign(path=keys, label=[key.split("/")[-2] for key in keys])
s3.put_object(Bucket=bucket, Key=f"{out}/vectors.csv", Body=table.to_csv(index=False).encode())
