"""Whether the environment is that of one process among several."""

from collections.abc import Mapping


def in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether this is one of several processes that a launcher has started, as jax finds it: by Slurm, Open MPI,
    Kubernetes, on a TPU pod, or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."""

    def several(name: str) -> bool:
        return environ.get(name, "1").isdigit() and int(environ.get(name, "1")) > 1

    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    return (
        (several("JAX_NUM_PROCESSES") and "JAX_COORDINATOR_ADDRESS" in environ and "JAX_PROCESS_ID" in environ)
        or (several("SLURM_NTASKS") and all(name in environ for name in slurm))
        or (several("OMPI_COMM_WORLD_SIZE") and "OMPI_MCA_orte_hnp_uri" in environ)
        or ("KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ)
        or any("," in environ.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
    )
