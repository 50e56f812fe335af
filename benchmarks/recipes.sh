#!/usr/bin/env bash
# Other recipes against the paper's at equal updates: half the width, few updates, the accuracy of the probe.
#
#   benchmarks/recipes.sh TRAINING_IMAGES CIFAR10 [UPDATES] > recipes.csv
#
# Both are names of image sets in the workspace (EVALKIT_HOME). Takes about a second per update and recipe on two cores;
# run it again to resume. The moving average of G needs no run: it does not change D's training, not by a bit.
set -euo pipefail
images=$1 cifar10=$2 updates=${3:-600}

run() {
    evalkit train-gan --images "$images" --set base_channels=64 --updates "$updates" --probe "$cifar10:400" \
        --probe-updates $((updates / 4)) --name "width64-$1" "${@:2}" >&2
    tail -n +2 "${EVALKIT_HOME:-evalkit-home}/runs/width64-$1/probe.csv" | cut -d, -f1,3- | sed "s/^/$1,/"
}

echo recipe,d_updates,dataset,labels_per_class,validation_images,C,validation_percent
run paper
run sn-hinge --recipe imagenet32-sn-hinge
run flips --set random_flip=true
run l2 --set l2=2.5e-5
run z100 --set z_dim=100
run batch32 --set batch_size=32
run sn-bce --set d_norm=spectral
