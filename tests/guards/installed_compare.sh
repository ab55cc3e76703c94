#!/bin/sh
# The installed heed-compare runs on the samples that were installed with it.
#   installed_compare.sh PREFIX
set -eu
prefix=$1
for tensor in encoder_q encoder_k encoder_v decoder_q decoder_k decoder_v; do
    [ -n "$(find "$prefix" -path "*/heed/data/$tensor.npy")" ] || { echo "$tensor.npy is not installed"; exit 1; }
done
"$(find "$prefix" -name heed-compare -type f)" --sample encoder --rounds 1 --repeat 1 --variants softmax --threads 1
