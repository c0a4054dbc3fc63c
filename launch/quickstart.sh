#!/usr/bin/env bash
# From nothing to private synthetic images: sets up and builds, trains on rendered public images, fine-tunes privately on Fashion-MNIST over
# two MPI ranks, and leaves synthetic images, a model and a privacy statement in runs/quickstart/. A second call does only what is missing.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/quickstart.sh [--fresh]

  --fresh    forget an earlier run and start over

Environment
  DPLDM_RANKS   number of MPI ranks (default 2)
TEXT
}

fresh=no
[ $# -le 1 ] || { echo "quickstart.sh: one argument at most; see --help" >&2; exit 64; }
case "${1:-}" in
  "") ;;
  --fresh) fresh=yes ;;
  -h | --help) usage; exit 0 ;;
  *) echo "quickstart.sh: unknown argument '$1'; see --help" >&2; exit 64 ;;
esac

ranks=${DPLDM_RANKS:-2}
case "$ranks" in
  *[!0-9]* | 0* | ????*) echo "quickstart.sh: DPLDM_RANKS is '$ranks'; it must be a whole number from 1 to 999" >&2; exit 64 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
started=$SECONDS
launch/bootstrap.sh cpu-release

run=runs/quickstart
data=$run/data
if [ "$fresh" = yes ] && [ -e "$run" ]; then
  if [ -s "$run/finetune/ledger.jsonl" ]; then
    echo "quickstart.sh: the ledger of the earlier run goes too; what was released from it stays spent, and the new run's epsilon comes on top" >&2
  fi
  rm -rf "$run"
fi
mkdir -p "$data" "$run"
fashion=/usr/share/datasets/fashion-mnist
classes='T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot'

# Open MPI refuses to run as root unless asked twice; in a container there is often no other user.
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_btl_vader_single_copy_mechanism=none HDF5_USE_FILE_LOCKING=BEST_EFFORT
# Ctrl-C: Open MPI kills ranks one second after passing the signal on, which is less than a step and its checkpoint take.
export OMPI_MCA_odls_base_sigkill_timeout=5
trap 'echo "quickstart: stopped; ./launch/quickstart.sh goes on from here" >&2; exit 130' INT
# One thread for each rank: two ranks with one thread beat one rank with two.
threads=$(($(nproc) / ranks > 0 ? $(nproc) / ranks : 1))
export OMP_NUM_THREADS=$threads
on_ranks() { mpirun -np "$ranks" --bind-to none --oversubscribe "$@"; }
tool=build/bin/dpldm-data
dpldm=build/bin/dpldm

# stage TITLE RESULT COMMAND...: skipped when RESULT exists, which is the last file that the command writes.
stage() {
  local title=$1 result=$2 begin=$SECONDS
  shift 2
  if [ -e "$result" ]; then
    printf '\n== %s: there already (%s)\n' "$title" "$result" >&2
    return
  fi
  printf '\n== %s\n' "$title" >&2
  "$@"
  printf '== %s: %d s\n' "$title" $((SECONDS - begin)) >&2
}

# A training run that was interrupted goes on where it was.
train() {
  local command=$1 config=$2 directory=$3 resume=()
  shift 3
  # A ledger without a checkpoint has charged steps: starting over in silence would forget them.
  if [ -d "$directory/checkpoints" ] || [ -e "$directory/ledger.jsonl" ]; then resume=(--resume); fi
  [ ${#resume[@]} -eq 0 ] && rm -rf "$directory"
  on_ranks "$dpldm" "$command" --config "$config" --run-dir "$directory" "${resume[@]}" "$@"
}

# into FILE COMMAND...: the command's answer, kept only when it succeeds.
into() {
  local file=$1
  shift
  "$@" >"$file.partial" && mv "$file.partial" "$file"
}

stage "render 40,000 public images" $data/public.h5 \
  $tool render --kind mixed --num 40000 --seed 1 --size 28 -o $data/public.h5
stage "import the private images (Fashion-MNIST, 60,000)" $data/private.h5 \
  $tool import idx --images $fashion/train-images-idx3-ubyte.gz --labels $fashion/train-labels-idx1-ubyte.gz \
  --class-names "$classes" --visibility private -o $data/private.h5
stage "import the held-out real set (10,000)" $data/heldout.h5 \
  $tool import idx --images $fashion/t10k-images-idx3-ubyte.gz --labels $fashion/t10k-labels-idx1-ubyte.gz \
  --class-names "$classes" --visibility private -o $data/heldout.h5
stage "train the autoencoder on public images" $run/autoencoder/model/model_index.json \
  train autoencoder configs/quickstart/autoencoder.yaml $run/autoencoder --set data.images=$data/public.h5
stage "encode the public images" $data/public_latents.h5 \
  on_ranks $tool encode --model $run/autoencoder/model --images $data/public.h5 --precision bf16 -o $data/public_latents.h5
stage "encode the private images" $data/private_latents.h5 \
  on_ranks $tool encode --model $run/autoencoder/model --images $data/private.h5 --precision bf16 -o $data/private_latents.h5
stage "train the public diffusion model" $run/pretrain/model/model_index.json \
  train pretrain configs/quickstart/pretrain.yaml $run/pretrain \
  --set data.latents=$data/public_latents.h5 --set model.autoencoder=$run/autoencoder/model
stage "fine-tune privately" $run/finetune/privacy_statement.md \
  train finetune configs/quickstart/finetune.yaml $run/finetune \
  --set data.latents=$data/private_latents.h5 --set model.base=$run/pretrain/model
stage "draw 10,000 synthetic images" $run/finetune/samples/images.h5 \
  on_ranks $dpldm sample --model $run/finetune/model --num 10000 --sampler dpmpp --steps 16 --seed 1 -o $run/finetune/samples/images.h5
stage "score them on the held-out real set" $run/finetune/evaluation.json \
  into $run/finetune/evaluation.json \
  on_ranks $dpldm evaluate --samples $run/finetune/samples/images.h5 --reference $data/heldout.h5 --training $data/private.h5 \
  --public $data/public.h5 --json
stage "draw 2,000 images from the public model as it is (the floor)" $run/pretrain/samples/images.h5 \
  on_ranks $dpldm sample --model $run/pretrain/model --num 2000 --classes 0,1,2,3,4,5,6,7,8,9 --sampler dpmpp --steps 16 --seed 1 \
  -o $run/pretrain/samples/images.h5
stage "score the floor" $run/pretrain/evaluation.json \
  into $run/pretrain/evaluation.json \
  on_ranks $dpldm evaluate --samples $run/pretrain/samples/images.h5 --reference $data/heldout.h5 --training $data/private.h5 --seeds 2 --json
stage "write the report" $run/finetune/report.html \
  $dpldm report $run/finetune

python3 - "$run" "$((SECONDS - started))" <<'PY'
import json, sys
run, seconds = sys.argv[1], int(sys.argv[2])
load = lambda path: json.load(open(f"{run}/{path}"))
score, floor, claim = load("finetune/evaluation.json"), load("pretrain/evaluation.json"), load("finetune/model/dp_metadata.json")
print(f"""
Done in {seconds // 60} min {seconds % 60} s.

  accuracy on real images   {100 * score['accuracy']['mean']:.1f} % (+- {100 * score['accuracy']['sd']:.1f} over {len(score['accuracy']['seeds'])} classifiers trained on 10,000 synthetic images alone)
  the floor                 {100 * floor['accuracy']['mean']:.1f} % (the public model as it is: {len(floor['accuracy']['seeds'])} classifiers trained on 2,000 of its images alone)
  privacy                   epsilon {claim['epsilon']:.3f}, delta {claim['delta']:g}, {claim['neighbouring']}, one record

  pictures   {run}/finetune/samples/grid.png
  model      {run}/finetune/model (diffusers layout, with dp_metadata.json)
  statement  {run}/finetune/privacy_statement.md
  report     {run}/finetune/report.html

The score was taken on a held-out real set; what you learn from it is outside epsilon.
Next: your own images with `build/bin/dpldm-data import folder --help`; other settings in configs/README.md; a cluster in slurm/README.md.""")
PY
