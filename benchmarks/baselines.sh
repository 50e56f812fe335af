#!/usr/bin/env bash
# The baseline rows of benchmarks/results/results.csv: K-means features (1,600 centroids), kNN, logistic regression and
# PCA-whitened pixels, with all labels and with 400 per class, and the layers of a trained network one by one.
#
#   benchmarks/baselines.sh CIFAR10_IMAGE_SET HOME [FEATURES_TO_ABLATE]
#
# CIFAR10_IMAGE_SET is a prepared set in HOME, such as cifar10. Run it again after an interruption: it resumes.
set -euo pipefail
set_name=$1 home=$2 ablated=${3:-}

run() { evalkit --home "$home" "$@"; }

for baseline in kmeans knn logistic whitened pixels; do
  for protocol in "$set_name" "$set_name:400"; do
    run baseline "$baseline" --protocol "$protocol"
  done
done
if [ -n "$ablated" ]; then
  run ablate --features "$ablated" --protocol "$set_name:400" --num-test-subsets 3
fi
run report
