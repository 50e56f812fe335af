#!/usr/bin/env bash
# The CIFAR-10 rows of benchmarks/results/cifar10.csv: trains imagenet32 on one picture source, then measures it, the
# same network with random weights, and raw pixels, with all labels and with 400 a class.
#
#   benchmarks/cifar10.sh TRAINING_PICTURES CIFAR10_PICTURES [D_UPDATES] [HOME]
#
# Both sources are whatever `evalkit prepare` takes. Killed, it goes on where it was.
set -euo pipefail
training=$1 cifar=$2 updates=${3:-150000} home=${4:-evalkit-home}

run() { evalkit --home "$home" "$@"; }

run prepare "$training" --name tiny-imagenet
run train-gan --recipe imagenet32 --images tiny-imagenet --updates "$updates"
run reproduce cifar10 --data "$cifar" --encoder imagenet32  # measures what is missing
run report
