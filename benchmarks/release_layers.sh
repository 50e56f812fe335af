#!/usr/bin/env bash
# The pipeline against the release: the first four layers of its ImageNet-32 discriminator on CIFAR-10.
#
#   benchmarks/release_layers.sh RELEASE_FOLDER CIFAR10_IMAGES [HOME]
#
# RELEASE_FOLDER holds 30_discrim_params.jl_01.npy to _10.npy (conv1 to conv4) of Newmu/dcgan_code, CIFAR10_IMAGES is
# whatever `evalkit prepare` takes. An independent script has 75.9 % at C = 1e-4 on the JPEG copy of CIFAR-10.
set -euo pipefail
release=$1 cifar=$2 home=${3:-evalkit-home}

run() { evalkit --home "$home" "$@"; }

run pretrained import "$release" --partial
images=$(basename "$(run prepare "$cifar" --name cifar10)")  # cifar10-jpeg, where the images are lossy
run extract --dataset "$images" --encoder pretrained:dcgan-imagenet32-conv1to4
run svm
