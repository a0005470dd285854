#!/bin/bash
#SBATCH --job-name=XXXnameXXX
#SBATCH --output=XXXoutfileXXX
#SBATCH --error=XXXerrfileXXX
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --partition=XXXqueueXXX
#SBATCH --nodes=XXXnodesXXX
#SBATCH --ntasks=XXXmpinodesXXX
#SBATCH --cpus-per-task=XXXthreadsXXX
#SBATCH --gres=gpu:XXXgpusXXX
#SBATCH --mem=XXXmemoryXXXG
#SBATCH --time=XXXtimeXXX
#SBATCH XXXextra1XXX
#SBATCH XXXextra2XXX
#SBATCH XXXextra3XXX

# A line above is left out when its value is empty. Load modules or an environment here if your cluster asks for it.
# exec: a signal of the scheduler reaches the program itself, which then stops at a safe point.
exec XXXcommandXXX
