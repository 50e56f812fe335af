"""Duplicates: within a training set, and between a training set and a benchmark's test images."""

from evalkit.images.dedup.dedup import MODES as MODES
from evalkit.images.dedup.dedup import dedup as dedup
from evalkit.images.dedup.dedup import dedup_summary as dedup_summary
from evalkit.images.dedup.hashes import AutoencoderOptions as AutoencoderOptions
