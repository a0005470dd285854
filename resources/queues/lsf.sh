#!/bin/bash
#BSUB -J XXXnameXXX
#BSUB -o XXXoutfileXXX
#BSUB -e XXXerrfileXXX
#BSUB -rn
#BSUB -q XXXqueueXXX
#BSUB -n XXXcoresXXX
#BSUB -R span[hosts=1]
#BSUB -gpu num=XXXgpusXXX
#BSUB -M XXXmemoryXXXGB
#BSUB -W XXXtimeXXX
#BSUB XXXextra1XXX
#BSUB XXXextra2XXX
#BSUB XXXextra3XXX

exec XXXcommandXXX
