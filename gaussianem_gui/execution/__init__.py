"""How jobs are run, without Qt: queue, GPUs, clusters, workflows, estimates, and what running jobs report."""
