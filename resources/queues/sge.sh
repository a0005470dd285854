#!/bin/bash
#$ -N XXXnameXXX
#$ -o XXXoutfileXXX
#$ -e XXXerrfileXXX
#$ -cwd
#$ -V
#$ -r n
#$ -S /bin/bash
#$ -q XXXqueueXXX
#$ -l h_rt=XXXtimeXXX
#$ XXXextra1XXX
#$ XXXextra2XXX
#$ XXXextra3XXX

# Cores, GPUs and memory are named differently at every site: put e.g. "-pe smp 8" and "-l gpu=1" into extra1 and 2.
exec XXXcommandXXX
