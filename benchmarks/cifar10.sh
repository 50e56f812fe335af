#!/usr/bin/env bash
# From images to the rows that this project publishes: trains imagenet32 on one image source, then benchmarks/publish.sh.
#
#   benchmarks/cifar10.sh TRAINING_IMAGES CIFAR10_IMAGES [D_UPDATES] [HOME]
#
# Both sources are anything that `evalkit prepare` takes. Run it again to resume after an interruption.
set -euo pipefail
training=$1 cifar=$2 updates=${3:-150000} home=${4:-evalkit-home}

evalkit --home "$home" prepare "$training" --name tiny-imagenet
checkpoint=$(evalkit --home "$home" train-gan --recipe imagenet32 --images tiny-imagenet --updates "$updates")
"$(dirname "$0")/publish.sh" "$checkpoint" "$cifar" "$home"
