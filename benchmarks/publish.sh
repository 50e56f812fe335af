#!/usr/bin/env bash
# From a trained run to what this project publishes: the weights in pretrained/, the results measured with them, with
# each layer alone as well, their run cards, and benchmarks/REPORT.md (and .html, .tex).
#
#   benchmarks/publish.sh CHECKPOINT CIFAR10_IMAGES [HOME [NOTE]]        (in the folder of a clone)
#
# CHECKPOINT is a folder like evalkit-home/runs/imagenet32/checkpoints/d-00150000, CIFAR10_IMAGES is any source that
# `evalkit prepare` takes; HOME has the images trained on, and may hold other results (benchmarks/baselines.sh), which are
# published too; NOTE is one more line on the weights' card. Run it again after an interruption: it resumes.
set -euo pipefail
checkpoint=$1 cifar=$2 home=${3:-evalkit-home} note=${4:-}
name=imagenet32-tiny results=benchmarks/results

run() { evalkit --home "$home" "$@"; }

run pretrained import "$checkpoint" --name $name --out pretrained/$name --dtype float16 --replace --licence MIT --source-batch-norm \
  --source "trained by this project, without labels, on Tiny ImageNet's 100,000 training images at 32x32" \
  --note "trained on images of ImageNet, whose terms allow research that is not commercial" \
  --note "far fewer D updates than the paper's 150,000, a thirteenth of its images: features to start from, not the paper's" \
  ${note:+--note "$note"}
run reproduce cifar10 --data "$cifar" --encoder pretrained:$name
features=$(basename "$home"/features/cifar10*--pretrained-$name)
run ablate --features "$features" --protocol "${features%%--*}:400" --num-test-subsets 3
run svm --features "$features" --protocol "${features%%--*}:400" --scaling standardise
run svm --features "$features" --layers conv1..conv4  # the layers of the release whose files exist
for deviation in "" --hflip "--hflip --shift 2"; do  # each differs from the paper; its rows say so
  run extract --dataset "${features%%--*}" --encoder pretrained:$name --batch-norm source $deviation
  run svm
  run svm --protocol "${features%%--*}:400"
  run svm --layers conv1..conv4
done
cp "$home/results.csv" $results/results.csv
rm -rf $results/cards && mkdir $results/cards && cp "$home"/cards/* $results/cards/
run pretrained card $name --results $results/results.csv
run report --results $results/results.csv --out benchmarks/REPORT.md --out benchmarks/report.html --out benchmarks/report.tex
run verify $results/results.csv
