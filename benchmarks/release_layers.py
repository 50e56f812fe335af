"""Checks the pipeline against the release: its ImageNet discriminator's first four layers on CIFAR-10.

    python benchmarks/release_layers.py RELEASE_FOLDER IMAGE_SET OUT [--C 1e-4]

RELEASE_FOLDER holds 30_discrim_params.jl_01.npy to _10.npy (conv1 to conv4) of Newmu/dcgan_code; IMAGE_SET is a
prepared CIFAR-10; OUT gets the features. Theano convolves with flipped kernels, so they are turned by 180 degrees.
Prints the test accuracy of an SVM on all training rows: an independent script has 75.9 % at C = 1e-4 on the JPEG copy
of CIFAR-10.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch

from evalkit.features.encoders import Encoder
from evalkit.features.encoders.discriminators import discriminator_encoder
from evalkit.features.extract import extract
from evalkit.gan.networks import Discriminator
from evalkit.gan.recipes import RECIPES, override
from evalkit.images import load_images
from evalkit.probes.l2svm import l2svm_path


def release_encoder(folder: Path) -> Encoder:
    """The release's conv1 to conv4 (w1; then w, gain, bias a layer) as an encoder of 12,288 features."""
    arrays = [np.load(folder / f"30_discrim_params.jl_{i:02d}.npy", allow_pickle=False) for i in range(1, 11)]
    kernels = [torch.from_numpy(array[:, :, ::-1, ::-1].copy()) for array in (arrays[0], *arrays[1::3])]
    recipe = override(RECIPES["imagenet32"], {"d_maps": [1, 1, 2, 2], "d_strides": [1, 2, 1, 2]})
    discriminator = Discriminator(recipe)
    with torch.no_grad():
        for block, kernel in zip(discriminator.blocks, kernels, strict=True):
            block.conv.weight.copy_(kernel)
        for number, norm in enumerate(discriminator.norms().values()):
            norm.weight.copy_(torch.from_numpy(arrays[2 + 3 * number]))
            norm.bias.copy_(torch.from_numpy(arrays[3 + 3 * number]))
    sha256 = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    return discriminator_encoder("release, 4 layers", discriminator, sha256=sha256)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--C", type=float, default=1e-4)
    arguments = parser.parse_args()
    features = extract(load_images(arguments.images), release_encoder(arguments.release), arguments.out)
    fit = l2svm_path(features.features, features.labels, [arguments.C], rows=features.rows("train"))[0]
    test = features.rows("test")
    accuracy = np.mean(fit.predict(features.features, test) == features.labels[test])
    print(f"{features.dataset}, {features.features.shape[1]:,} features, C = {arguments.C:g}: {100 * accuracy:.2f} %")
    print(f"relative error of the objectives: estimated at most {fit.error_estimate.max():.1e}")


if __name__ == "__main__":
    main()
