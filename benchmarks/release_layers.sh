#!/usr/bin/env bash
# The pipeline compared with the release: the first four layers of its ImageNet-32 discriminator on CIFAR-10.
#
#   benchmarks/release_layers.sh RELEASE_FOLDER CIFAR10_IMAGES [HOME]
#
# RELEASE_FOLDER holds 30_discrim_params.jl_01.npy to _10.npy (conv1 to conv4) of Newmu/dcgan_code, CIFAR10_IMAGES is
# any source that `evalkit prepare` takes.
set -euo pipefail
release=$1 cifar=$2 home=${3:-evalkit-home}

run() { evalkit --home "$home" "$@"; }

run pretrained import "$release" --partial
run prepare "$cifar" --name cifar10
run extract --dataset cifar10 --encoder pretrained:dcgan-imagenet32-conv1to4
run svm
