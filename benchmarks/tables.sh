#!/usr/bin/env bash
# The rows of benchmarks/results/results.csv so far: CIFAR-10 and a part of SVHN, with what comes with evalkit and with the
# layers of the paper's release that its authors published.
#
#   benchmarks/tables.sh CIFAR10 SVHN_PART RELEASE_SVHN [HOME]
#
# CIFAR10 is the folder cifar-10-batches-py, SVHN_PART any source of digits that `evalkit prepare` takes, RELEASE_SVHN the
# folder of the release's SVHN discriminator. A killed run resumes: what is extracted and measured stays.
set -euo pipefail
cifar=$1 svhn=$2 release=$3 home=${4:-evalkit-home}
run() { evalkit --home "$home" "$@"; }

run prepare "$cifar" --name cifar10
run prepare "$svhn" --name svhn-part
for encoder in pretrained:imagenet32-tiny random:imagenet32 pixels; do
  run extract --dataset cifar10 --encoder $encoder
  run svm --protocol cifar10:400
  run svm
  if [ $encoder = pretrained:imagenet32-tiny ]; then run svm --layers conv1..conv4; fi
done
run pretrained import "$release" --name release-svhn --partial
run extract --dataset svhn-part --encoder pretrained:release-svhn
run svm --protocol svhn-part:100
