#!/bin/bash
#PBS -N XXXnameXXX
#PBS -o XXXoutfileXXX
#PBS -e XXXerrfileXXX
#PBS -r n
#PBS -q XXXqueueXXX
#PBS -l XXXresourcesXXX
#PBS -l walltime=XXXtimeXXX
#PBS XXXextra1XXX
#PBS XXXextra2XXX
#PBS XXXextra3XXX

# The resources above: nodes, cores, GPUs and memory, as PBS or Torque writes them.
cd "$PBS_O_WORKDIR" || exit 1
exec XXXcommandXXX
