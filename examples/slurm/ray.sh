#!/bin/bash
# A Ray cluster on 8 nodes of SLURM, for one command: here a corpus is tokenised. Sources and --out
# are on a file system that all nodes mount, and so is the home directory, with the token.
#
#   ray get-auth-token --generate     # once: ~/.ray/auth_token, which keeps others off your cluster
#   sbatch ray.sh
#
# Requeued, or submitted again, it goes on with the shards that are missing. docs/clusters.md has more.

#SBATCH --job-name=griffin-ray
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1       # one Ray node a machine, which takes all of its CPUs
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue

export RAY_AUTH_MODE=token
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:6379

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --block &
for _ in {1..60}; do ray status --address "$address" > /dev/null 2>&1 && break; sleep 2; done
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
        ray start --address="$address" --block &
fi

griffin data tokenize 'parquet:/shared/web/*.parquet' --tokenizer /shared/tokenizer \
    --out /shared/tokens/web --ray "$address"
status=$?
scancel --signal=TERM "$SLURM_JOB_ID"
exit $status
