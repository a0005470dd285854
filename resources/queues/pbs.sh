#!/bin/bash
#PBS -N XXXnameXXX
#PBS -o XXXoutfileXXX
#PBS -e XXXerrfileXXX
#PBS -r n
#PBS -q XXXqueueXXX
#PBS -l select=XXXnodesXXX:ncpus=XXXcoresXXX
#PBS -l walltime=XXXtimeXXX
#PBS XXXextra1XXX
#PBS XXXextra2XXX
#PBS XXXextra3XXX

# GPUs and memory are asked for differently by PBS Pro and Torque: put e.g. "-l ngpus=1" into extra1.
cd "$PBS_O_WORKDIR" || exit 1
exec XXXcommandXXX
