"""OpenCV on one thread, as each Spark task has one core. Imported where it is used: it costs a process 30 MB."""

import cv2

cv2.setNumThreads(1)

__all__ = ["cv2"]
