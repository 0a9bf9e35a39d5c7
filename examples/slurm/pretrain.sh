#!/bin/bash
# Griffin of 1.3 billion parameters on 4 nodes of 8 GPUs, on token shards of your own:
#
#   griffin data tokenize 'parquet:/shared/web/*.parquet' --tokenizer /shared/tokenizer \
#       --out /shared/tokens/web
#   sbatch pretrain.sh
#
# It is requeued until it is trained. docs/training.md has the whole recipe.

#SBATCH --job-name=griffin
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8       # one task a GPU
#SBATCH --gres=gpu:8              # not --gpus-per-task: each task must see all GPUs of its node
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120         # two minutes before the end: save, and exit with 75
#SBATCH --open-mode=append

srun --kill-on-bad-exit=1 griffin train --preset griffin_1b \
    --data.sources arrayrecord:/shared/tokens/web --data.eval-sources 'parquet:/shared/held_out/*.parquet' \
    --mesh.data 4 --mesh.fsdp 8 --run-dir /shared/runs/griffin_1b --stopped-status 75
status=$?
[ $status -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
