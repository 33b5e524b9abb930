"""A real load of many jobs into dlt's dummy destination, which does nothing with them.

Run as a script it does everything in one process and prints the greatest resident size, in bytes:
`big_load.py JOBS FOLDER [OTLP_ENDPOINT]`, with dltobs where there is an endpoint.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

import dlt

_JOBS_OF_PACKAGE = 500
"""dlt's time for a package grows with the square of its jobs."""
SETTINGS = {
    "DATA_WRITER__FILE_MAX_ITEMS": "1",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "1",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "LOAD__WORKERS": "20",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
}
"""Each row is a file, and so a job."""


def normalized(folder: str, jobs: int) -> Any:
    """A pipeline whose next `load()` runs so many jobs, and one for each package's state."""
    pipeline = dlt.pipeline(
        "big",
        destination=dlt.destinations.dummy(completed_prob=1.0, timeout=600.0),
        dataset_name="big_data",
        pipelines_dir=folder,
    )
    for first in range(0, jobs, _JOBS_OF_PACKAGE):
        last = min(first + _JOBS_OF_PACKAGE, jobs)
        pipeline.extract(({"id": number} for number in range(first, last)), table_name="orders")
    pipeline.normalize()
    return pipeline


def main() -> None:
    jobs, folder, *endpoint = sys.argv[1:]
    os.environ.update(SETTINGS, DLT_DATA_DIR=folder)
    if endpoint:
        import dltobs

        dltobs.configure(otlp_endpoint=endpoint[0], max_job_spans=2 * int(jobs))
    normalized(folder, int(jobs)).load()
    if endpoint:
        dltobs.shutdown()
        delivered = dltobs.status()["otlp"].delivered
        assert delivered > int(jobs), dltobs.status()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else 1024 * peak)


if __name__ == "__main__":
    main()
