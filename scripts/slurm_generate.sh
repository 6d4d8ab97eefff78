#!/bin/bash
# One shard of a generation per array task, each with a vLLM server of its own on its node.
#
#     N=$(sbatch --parsable scripts/slurm_generate.sh configs/clair/local_server.yaml runs/mine)
#     sbatch --dependency=afterok:$N --wrap \
#         'clair-apo merge runs/mine runs/mine/*-of-8'
#
# The run's folders lie on the shared disk, the request store on the node's own: SQLite is made for
# a local disk. It is copied back when the task ends, also when Slurm takes the node away, and
# fetched again when the task is requeued: what was paid for is not asked again. A node that dies
# without a signal loses what it asked since the task began.
#
# Not run on a cluster by us. Adapt the lines between the rules.
# ------------------------------------------------------------------------------------------------
#SBATCH --job-name=clair
#SBATCH --array=1-8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
MODEL=${MODEL:-/models/my-reviser}
LOCAL=${SLURM_TMPDIR:-/tmp/$USER-$SLURM_JOB_ID}
# ------------------------------------------------------------------------------------------------
set -euo pipefail
config=$1
run=$2
shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
part=$SLURM_ARRAY_TASK_ID-of-$SLURM_ARRAY_TASK_COUNT
port=$((20000 + SLURM_JOB_ID % 20000))
mkdir -p "$LOCAL" "$run/$part"
# the shard puts its number into the name; merge looks for that name in the shard's folder
local_store=$LOCAL/requests-$part.sqlite
kept=$run/$part/requests-$part.sqlite

copy_store() {
    # SQLite's own backup: what still stands in the write-ahead log beside the file comes along.
    # Whole or not at all: the copy gets its name when it is complete.
    # Without such a log itself: the shared disk may be no place for one.
    python3 -c 'import os, sqlite3, sys
source, copy = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2] + ".part")
source.backup(copy)
copy.execute("PRAGMA journal_mode = DELETE")
copy.close()
source.close()
os.replace(sys.argv[2] + ".part", sys.argv[2])' "$1" "$2"
}

children=()
keep_store() {
    trap - TERM EXIT
    for child in "${children[@]}"; do kill -TERM "$child" 2>/dev/null || true; done
    wait || true
    if [ -f "$local_store" ]; then copy_store "$local_store" "$kept"; fi
}
trap keep_store EXIT
trap 'exit 143' TERM

if [ -f "$kept" ]; then copy_store "$kept" "$local_store"; fi

# the name stands in the store's keys: another checkpoint must not be taken for this one. Two that
# have the same name need --reviser.revision
served=$(basename "$MODEL")
vllm serve "$MODEL" --served-model-name "$served" --host 127.0.0.1 --port "$port" &
server=$!
children+=("$server")
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
    kill -0 "$server" || { echo "the server ended before it answered" >&2; exit 1; }
    sleep 5
done

clair-apo generate --config "$config" --run_dir "$run" --shard "$shard" \
    --store "$LOCAL/requests.sqlite" \
    --reviser.model "$served" --reviser.base_url "http://127.0.0.1:$port/v1" &
children+=("$!")
wait "$!"
