"""FLIP's five tasks of ProtT5nv's model card: this model, baselines from the same harness, and what others published.

options     what a user may choose
tasks       the five tasks: labels, splits, counts, heads
flip        FLIP's own files, in both forms
rebuilt     sets that somebody put together again
download    getting them
blocks      labels as arrays, and how much of the proteins a run covers
embed       the main job, for all proteins of a task
features    what heads are fitted to: embeddings, one-hot, composition
predictors  the heads and the sober baselines
scoring     scores, intervals, differences
parts       what is fitted already
run         all of it, in order
results     results.json
published   other people's numbers, with their sources
pictures    and
report      report.html
show        the table on the screen
"""
