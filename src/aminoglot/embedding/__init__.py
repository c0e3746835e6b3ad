"""The main job: proteins in, one file of embeddings out.

options     what a user may choose
api         `aminoglot.embed`
job         from input to audited output
task        a shard of proteins to arrays
reuse       results of an older file
export      from shards to the output, in input order, and the table of proteins
formats     h5, parquet, npz, safetensors, fair-esm's pt: each written and read in one place
store       reading back
estimate    how long it will take
report      what the user sees
"""
