"""Duplicates: within a training set, and between a training set and a benchmark's test pictures."""

from evalkit.images.dedup.autoencoder import AutoencoderOptions as AutoencoderOptions
from evalkit.images.dedup.find import MODES as MODES
from evalkit.images.dedup.find import dedup as dedup
from evalkit.images.dedup.find import dedup_summary as dedup_summary
