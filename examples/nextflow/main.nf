#!/usr/bin/env nextflow
// Embed proteins in slices: one task plans, N tasks compute, one audits and writes the output.
//
//   nextflow run main.nf --input proteins.fasta --output proteins.h5 --model esm2-650m --slices 16
//
// What the tasks share is a folder beside the output, OUTPUT.aminoglot. So input and output go to them as absolute paths,
// not as files that Nextflow links into each task's own folder, and must lie on a file system that every node sees (in a
// container: mounted, under the same path). `-resume` goes on after a failure; so does the same command without it.
//
// More options of `aminoglot embed`, for all steps: --options='--per residue'. A model of your own: by an absolute path.

params.input = null
params.output = null
params.model = 'aminoglot-5m'
params.slices = 4
params.options = ''

def quoted(text) {
    return "'" + text.toString().replace("'", "'\\''") + "'"
}

process PLAN {
    input:
    val proteins
    val result

    output:
    val result

    script:
    """
    aminoglot embed ${quoted(proteins)} -o ${quoted(result)} -m ${quoted(params.model)} ${params.options} --plan-only
    """
}

// A slice that was killed goes on when it is tried again. One that fails for good is passed over, so that the others are
// finished and FINISH fails with its name.
process SLICE {
    tag "${number}/${params.slices}"
    errorStrategy { task.attempt <= 3 ? 'retry' : 'ignore' }
    maxRetries 3

    input:
    val number
    val result

    output:
    val number

    script:
    """
    aminoglot embed -o ${quoted(result)} -m ${quoted(params.model)} ${params.options} --shard ${number}/${params.slices}
    """
}

process FINISH {
    input:
    val numbers
    val result

    script:
    """
    aminoglot embed -o ${quoted(result)} -m ${quoted(params.model)} ${params.options} --finish
    """
}

workflow {
    if (!params.input || !params.output) {
        error('give --input proteins.fasta and --output proteins.h5')
    }
    PLAN(file(params.input, checkIfExists: true), file(params.output).toString())
    SLICE(channel.of(1..(params.slices as Integer)), PLAN.out)
    FINISH(SLICE.out.collect().ifEmpty([]), PLAN.out)
}
