"""The main job: proteins in, one file of embeddings out.

options     what a user may choose
api         `aminoglot.embed`
job         from input to audited output
setup       from options to the task, and what says how its results are made
computing   a plan's shards: in this process, by workers, or one slice of them
places      where workers of this machine compute
cluster     where workers of a Ray cluster compute
task        a shard of proteins to arrays
reuse       results of an older file
export      from shards to the output, in input order, and the table of proteins
formats     h5, parquet, npz, safetensors, fair-esm's pt: each written and read in one place
store       reading back
estimate    how long it will take
planning    what a job would take, before there is one; lengths and rates are what it goes by
report      what the user sees
"""
