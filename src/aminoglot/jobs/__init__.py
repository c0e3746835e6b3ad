"""A job that survives: plan, shards, manifest, audit, one folder. It knows no model; a task maps a shard to arrays.

task        what a job runs: sequences in, arrays out
storage     files written whole or not at all
folder      the job's folder and its lock
scan        one pass over the input: records, digests, duplicates
plan        which protein is computed in which shard
manifest    which shards are done
shards      a shard's arrays on disk
run         the shards that are left, in this process
slices      parts of a job that know nothing of each other
stored      the folder in an object store
dispatch    which worker computes which shard
crew        what is asked of workers and heard from them: processes of this machine, or ray_crew's actors
worker      computes shards in a process of its own
drive       the driver of a crew
audit       N in = written + merged + skipped + failed
"""

from aminoglot.jobs.audit import Audit, audit
from aminoglot.jobs.folder import JobFolder
from aminoglot.jobs.manifest import Manifest
from aminoglot.jobs.plan import Plan, Policy, changes, make_plan, read_plan
from aminoglot.jobs.run import run
from aminoglot.jobs.scan import Status
from aminoglot.jobs.shards import ShardReader
from aminoglot.jobs.task import ShardLimits, ShardResult, Task

__all__ = [
    "Audit",
    "JobFolder",
    "Manifest",
    "Plan",
    "Policy",
    "ShardLimits",
    "ShardReader",
    "ShardResult",
    "Status",
    "Task",
    "audit",
    "changes",
    "make_plan",
    "read_plan",
    "run",
]
