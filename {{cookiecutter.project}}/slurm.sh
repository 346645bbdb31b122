#!/bin/bash
# sbatch slurm.sh [flags of train.py]: trains, and goes on by itself after a preemption or at the end of the time.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1 # one for each GPU; more, and more nodes: see experiments/multi-node.yaml
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120 # SIGTERM 120 s before the end: the step is finished and saved
#SBATCH --requeue
#SBATCH --open-mode=append

export WANDB_RUN_ID=$SLURM_JOB_ID # one folder and one W&B run, however often the job starts
if [ -f "runs/$SLURM_JOB_ID/config.yaml" ]; then
    set -- --resume "runs/$SLURM_JOB_ID"
fi
srun python train.py "$@"
status=$?
# 143: stopped by SIGTERM. 75: stuck, which may be over on another machine; not for ever, if it is the data.
if [ $status -eq 143 ] || { [ $status -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
