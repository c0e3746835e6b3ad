"""From files to a corpus: whatever says who belongs to whom, and whatever is wrong with it."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from aminoglot.corpus import ESM2, PROTT5NV, Choices, Corpus, Inputs, build
from aminoglot.corpus.reader import SPLITS
from aminoglot.corpus.stages import Stages
from aminoglot.errors import DependencyError, InputError, JobError, OutputError
from tests.corpus.conftest import SOME, source
from tests.corpus.helpers import (
    QUIET,
    Cluster,
    all_members,
    clusters,
    contents,
    fasta,
    idmapping,
    mapping,
    protein,
    uniref50,
    uniref90,
    xml50,
    xml90,
)

Writer = Callable[[Path, list[Cluster]], Path]
UNFILTERED = Choices(filtered=False)
TENTH = replace(ESM2, validation=0.1)


def inputs(folder: Path, members: Writer, file: Writer, some: list[Cluster] = SOME) -> Inputs:
    folder.mkdir(exist_ok=True)
    return Inputs(
        source(uniref50(folder / "50.fasta.gz", some)),
        source(members(folder / "90.fasta", some)),
        source(file(folder / "members", some)),
    )


def tables_of(corpus: Corpus) -> list[tuple[str, list[bytes]]]:
    """Each cluster's name and its members' sequences, in order."""
    found = []
    for cluster in range(len(corpus.representatives)):
        places = [corpus.place(row) for row in corpus.member_rows(cluster).tolist()]
        found.append((corpus.representatives.name(cluster), [where[row] for where, row in places]))
    return found


@pytest.mark.parametrize("file", [mapping, idmapping, xml50, xml90])
def test_members_from_any_file(file: Writer, tmp_path: Path) -> None:
    corpus = build(inputs(tmp_path, all_members, file), TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    expected = [(c.id, [text.encode() for _, _, text in c.members]) for c in SOME]
    assert tables_of(corpus) == expected
    assert corpus.card["level"] == "members"
    found = corpus.card["stages"]["clusters"]
    assert found["members"] == sum(len(c.members) for c in SOME)
    assert [found[name] for name in ("alone", "without_sequence", "without_cluster", "representatives_added")] == [
        0
    ] * 4
    assert found["largest"] == max(len(c.members) for c in SOME)


@pytest.mark.parametrize("file", [idmapping, xml50, xml90])
def test_representatives_of_uniref90_clusters(file: Writer, tmp_path: Path) -> None:
    corpus = build(inputs(tmp_path, uniref90, file), TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    expected = [(c.id, [text.encode() for name, ur90, text in c.members if ur90.endswith(name)]) for c in SOME]
    assert tables_of(corpus) == expected
    assert corpus.card["level"] == "uniref90-representatives"


def test_a_tenth_is_held_out_and_the_rest_trains(built: Corpus) -> None:
    train, validation = built.split("train").tolist(), built.split("validation").tolist()
    assert len(validation) == 40
    assert sorted(train + validation) == list(range(400))
    assert len(built.split("test")) == 0
    with pytest.raises(InputError, match="split 'dev'"):
        built.split("dev")


def test_the_split_is_of_the_seed(built: Corpus, tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    again = build(files, TENTH, tmp_path / "again", UNFILTERED, QUIET)
    other = build(files, replace(TENTH, seed=1), tmp_path / "other", UNFILTERED, QUIET)
    assert again.split("validation").tolist() == built.split("validation").tolist()
    assert other.split("validation").tolist() != built.split("validation").tolist()


def test_the_card_knows_the_inputs(built: Corpus) -> None:
    assert set(built.card["stages"]["inputs"]) == {"representatives", "members", "mapping"}
    assert all(len(one["sha256"]) == 64 for one in built.card["stages"]["inputs"].values())
    assert built.recipe == TENTH
    assert sorted(path.name for path in built.folder.iterdir()) == [
        *(".lock", "card.json", "member-rows.u64", "member-starts.u64", "members", "representatives"),
        *("test.u64", "train.u64", "validation.u64"),
    ]
    assert repr(built).endswith("esm2, 360 for training>")


# -------------------------------------------------------------------------------------------------- what may be wrong


def test_members_without_a_sequence_and_sequences_without_a_cluster(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.members is not None
    lines = files.members.path.read_text().replace(">A00031", ">STRANGER").splitlines()
    files.members.path.write_text("\n".join(lines))
    gone = [name for c in SOME for name, _, _ in c.members if name.startswith("A00031")]
    assert gone, "the seed gives cluster 3 a second part"
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    found = corpus.card["stages"]["clusters"]
    assert (found["without_sequence"], found["without_cluster"]) == (len(gone), len(gone))
    assert (corpus.folder / "members-without-sequence.txt").read_text().split() == gone
    assert "STRANGER" in (corpus.folder / "sequences-without-cluster.txt").read_text()


def test_a_cluster_nobody_knows_is_its_representative(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.mapping is not None
    lines = files.mapping.path.read_text().splitlines()
    files.mapping.path.write_text("\n".join(lines[:5] + lines[6:]))
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert corpus.card["stages"]["clusters"]["alone"] == 1
    assert tables_of(corpus)[4] == (SOME[4].id, [SOME[4].sequence.encode()])


def test_a_representative_that_is_no_member_comes_first(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    other = protein(50, 99)
    text = fasta(tmp_path / "x", [(SOME[7].id, other)]).read_text()
    rest = gzip.decompress(files.representatives.path.read_bytes()).decode().split(">")
    rest = [record for record in rest if record and not record.startswith(SOME[7].id)]
    files.representatives.path.write_bytes(gzip.compress((text + "".join(f">{r}" for r in rest)).encode()))
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert corpus.card["stages"]["clusters"]["representatives_added"] == 1
    found = dict(tables_of(corpus))[SOME[7].id]
    assert found == [other.encode(), *(text.encode() for _, _, text in SOME[7].members)]


def test_other_releases_are_refused(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    files = replace(files, mapping=source(mapping(tmp_path / "other", clusters(400, seed=4)[:390])))
    assert files.mapping is not None
    files.mapping.path.write_text(files.mapping.path.read_text().replace("UniRef50_A00", "UniRef50_B00"))
    with pytest.raises(InputError, match="the files are of different releases"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_one_id_for_two_sequences(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.members is not None
    with files.members.path.open("a") as file:
        file.write(f">{SOME[0].members[0][0]}\nMKT\n")
    with pytest.raises(
        InputError, match=f"members: the same id for different sequences; .*:\n  {SOME[0].members[0][0]}"
    ):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_a_record_twice_is_counted(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.members is not None
    name, _, text = SOME[0].members[0]
    with files.members.path.open("a") as file:
        file.write(f">{name}\n{text}\n")
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert corpus.card["stages"]["members"]["repeated records"] == 1
    assert tables_of(corpus)[0] == (SOME[0].id, [text.encode() for _, _, text in SOME[0].members])


def test_bad_records_stop_or_are_skipped(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.members is not None
    with files.members.path.open("a") as file:
        file.write(">bad\nMK-T\n")
    with pytest.raises(InputError, match=r"1 record that are no proteins .*\n.*id 'bad': '-' at position 3"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    skipping = replace(UNFILTERED, bad_records="skip")
    corpus = build(files, TENTH, tmp_path / "other", skipping, QUIET)
    assert corpus.card["stages"]["members"]["bad records"] == 1
    assert "'bad'" in (corpus.folder / "members-bad-records.txt").read_text()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    path = files.representatives.path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"50\.fasta\.gz: the gzip data ends early"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    with pytest.raises(OutputError, match="begun and not finished; build it again, it goes on"):
        Corpus(tmp_path / "corpus")


def test_a_filter_without_mmseqs_is_no_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminoglot.mmseqs.shutil.which", lambda _: None)
    monkeypatch.setattr("aminoglot.mmseqs.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="this needs MMseqs2, and there is none: pip install"):
        build(inputs(tmp_path, all_members, mapping), TENTH, tmp_path / "corpus", Choices(), QUIET)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("recipe", "files", "said"),
    [
        (PROTT5NV, ("members", "mapping"), "ProtT5nv trains on UniRef50 representatives"),
        (ESM2, ("members",), "go together"),
        (ESM2, ("mapping",), "go together"),
    ],
)
def test_inputs_that_make_no_sense(recipe: Any, files: tuple[str, ...], said: str, tmp_path: Path) -> None:
    whole = inputs(tmp_path, all_members, mapping)
    some = Inputs(whole.representatives, **{name: getattr(whole, name) for name in files})
    with pytest.raises(InputError, match=said):
        build(some, recipe, tmp_path / "corpus", UNFILTERED, QUIET)


# ------------------------------------------------------------------------------------------------------------ prott5nv


def test_prott5nvs_split(tmp_path: Path) -> None:
    """As NVIDIA's code: shuffle, the first for validation, the next for test, the rest; then the length filter."""
    texts = [protein(length, number) for number, length in enumerate([100, 512, 513, 700, 30] * 20)]
    path = fasta(tmp_path / "a.fasta", [(f"p{number}", text) for number, text in enumerate(texts)])
    recipe = replace(PROTT5NV, validation=10, test=20)
    corpus = build(Inputs(source(path)), recipe, tmp_path / "corpus", Choices(), QUIET)
    order = np.arange(100)
    np.random.default_rng(0).shuffle(order)
    for name, part in (("validation", order[:10]), ("test", order[10:30]), ("train", order[30:])):
        assert corpus.split(name).tolist() == [row for row in part.tolist() if len(texts[row]) <= 512]
        counts = corpus.card["stages"]["split"]
        assert counts[name] == len(corpus.split(name))
        assert counts[f"{name}, longer ones included"] == len(part)
    assert corpus.members is None


def test_prott5nvs_repeated_records(tmp_path: Path) -> None:
    """A record twice is one protein, in one part of the split."""
    records = [(f"p{number}", protein(40, number)) for number in range(40)]
    path = fasta(tmp_path / "in.fasta", records * 2)
    recipe = replace(PROTT5NV, validation=10, test=10)
    corpus = build(Inputs(source(path)), recipe, tmp_path / "corpus", Choices(), QUIET)
    parts = [[corpus.representatives.name(int(row)) for row in corpus.split(name)] for name in SPLITS]
    assert sorted(map(len, parts)) == [10, 10, 20]
    assert sorted(name for part in parts for name in part) == sorted(name for name, _ in records)
    assert corpus.card["stages"]["representatives"]["repeated records"] == 40


def test_prott5nv_with_long_proteins_only(tmp_path: Path) -> None:
    path = fasta(tmp_path / "in.fasta", [(f"p{number}", protein(600, number)) for number in range(40)])
    with pytest.raises(InputError, match="all have more than 512 residues"):
        build(Inputs(source(path)), replace(PROTT5NV, validation=1, test=1), tmp_path / "corpus", Choices(), QUIET)


def test_an_input_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = inputs(tmp_path, all_members, mapping)
    run = Stages.run

    def meddling(stages: Any, name: str, work: Any) -> Any:
        if name == "result":
            with (tmp_path / "90.fasta").open("a") as file:
                file.write(">x\nMKT\n")
        return run(stages, name, work)

    monkeypatch.setattr(Stages, "run", meddling)
    with pytest.raises(JobError, match="begun with other files"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert not (tmp_path / "corpus" / "card.json").exists()


def test_another_version_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = inputs(tmp_path, all_members, mapping)
    monkeypatch.setattr("aminoglot.corpus.stages.__version__", "0.0.1")
    monkeypatch.setattr("aminoglot.corpus.building.finish", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    monkeypatch.undo()
    with pytest.raises(JobError, match=r"begun by aminoglot 0\.0\.1"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_files_in_each_others_place(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.members is not None
    swapped = replace(files, representatives=files.members, members=files.representatives)
    with pytest.raises(InputError, match="are --uniref50 and --uniref90 in their places"):
        build(swapped, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    (tmp_path / "members").unlink()
    with pytest.raises(InputError, match="members: cannot be read"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


@pytest.mark.parametrize(
    ("choices", "recipe"),
    [
        (Choices(filtered=False, strict=True), TENTH),
        (Choices(filtered=False), PROTT5NV),
        (Choices(strict=True), PROTT5NV),
        (Choices(), replace(ESM2, validation=0)),
    ],
)
def test_what_would_have_no_effect_is_refused(choices: Choices, recipe: Any, tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    if recipe.name == "prott5nv":
        files = Inputs(files.representatives)
    with pytest.raises(InputError, match=r"leave out|say --no-leak-filter"):
        build(files, recipe, tmp_path / "corpus", choices, QUIET)


def test_too_few_for_the_published_split(tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fasta", [("p", "MKT"), ("q", "MKV")])
    with pytest.raises(InputError, match="none is left for training; choose fewer with --validation and --test"):
        build(Inputs(source(path)), PROTT5NV, tmp_path / "corpus", Choices(), QUIET)


# -------------------------------------------------------------------------------------------------------------- stages


def test_again_is_nothing(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*") if path.is_file()}
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_options_or_inputs_are_refused(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    with pytest.raises(JobError, match=r"begun with other options \(recipe\)"):
        build(files, replace(TENTH, seed=5), tmp_path / "corpus", UNFILTERED, QUIET)
    assert files.mapping is not None
    files.mapping.path.write_text(files.mapping.path.read_text() + "\n")
    with pytest.raises(JobError, match=r"begun with other files \(mapping\)"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    files = inputs(tmp_path / "in", all_members, mapping)
    with pytest.raises(OutputError, match="a folder of something else"):
        build(files, TENTH, tmp_path / "in", UNFILTERED, QUIET)


STAGES = ("representatives", "members", "pairs", "clusters", "split", "result")


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_in_any_stage_it_goes_on(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = inputs(tmp_path, all_members, mapping)
    whole = build(files, TENTH, tmp_path / "whole", UNFILTERED, QUIET)
    run = Stages.run
    done: list[str] = []

    def stopping(stages: Any, name: str, work: Any) -> Any:
        def half() -> Any:
            done.append(name)
            result = work()
            if name == stage and len(done) == STAGES.index(stage) + 1:
                raise KeyboardInterrupt
            return result

        return run(stages, name, half)

    monkeypatch.setattr(Stages, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    found = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert done == [*STAGES[: STAGES.index(stage) + 1], *STAGES[STAGES.index(stage) :]], "nothing done is done again"
    assert contents(found.folder) == contents(whole.folder)


def test_a_repeated_cluster_is_refused(tmp_path: Path) -> None:
    """Else every cluster behind it would have its neighbour's members."""
    some = [*SOME[:20], SOME[3], *SOME[20:]]
    files = replace(
        inputs(tmp_path, all_members, mapping), representatives=source(uniref50(tmp_path / "r.fasta", some))
    )
    with pytest.raises(InputError, match=f"representatives: ids that come more than once; .*:\n  {SOME[3].id}"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_members_twins_of_the_representative_stay_in_order(tmp_path: Path) -> None:
    """Only the first of those with the representative's sequence leads; the others keep their place."""
    text, other = protein(50, 1), protein(50, 2)
    cluster = Cluster("X", [("X", "UniRef90_X", text), ("Y", "UniRef90_Y", other), ("Z", "UniRef90_Z", text)])
    some = [cluster, *SOME]
    corpus = build(inputs(tmp_path, all_members, mapping, some), TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert tables_of(corpus)[0][1] == [text.encode(), other.encode(), text.encode()]


def test_idmapping_knows_no_uniparc(tmp_path: Path) -> None:
    """Clusters named after UniParc's entries are alone then, which is no sign of another release."""
    strangers = [Cluster(f"UPI{number}", [(f"UPI{number}", "x", protein(40, number))]) for number in range(100)]
    files = inputs(tmp_path, all_members, idmapping)
    some = [*SOME, *strangers]
    files = replace(files, representatives=source(uniref50(tmp_path / "r.fasta", some)))
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    found = corpus.card["stages"]["clusters"]
    assert (found["alone"], found["alone_of_uniparc"]) == (100, 100)
    assert len(corpus.representatives) == 500


def test_lines_and_sequences_without_a_place_are_counted(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    assert files.mapping is not None
    with files.mapping.path.open("a") as file:
        file.write(f"UniRef50_STRANGE\tA,B\nUniRef50_X\t\n{SOME[0].id}\t{SOME[1].members[0][0]}\n")
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    found = corpus.card["stages"]["clusters"]
    assert (found["pairs_of_other_clusters"], found["in_several_clusters"]) == (2, 1)
    assert corpus.card["stages"]["pairs"]["without_cluster"] == 1


@pytest.mark.parametrize(("clusters_there", "held_out"), [(49_874_565, 249_372), (65_672_139, 328_360), (60, 1)])
def test_as_many_are_held_out_as_nvidia_did(clusters_there: int, held_out: int) -> None:
    assert ESM2.held_out(clusters_there) == held_out


@pytest.mark.parametrize("choices", [{"test": 5}, {"longest": 100}])
def test_choices_without_effect_are_refused(choices: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--test and --longest are ProtT5nv's"):
        build(inputs(tmp_path, all_members, mapping), replace(TENTH, **choices), tmp_path / "c", UNFILTERED, QUIET)


def test_inputs_are_known_by_content(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    os.utime(files.representatives.path, (1, 1))
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_a_kill_in_the_first_write_or_the_last_is_mended(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / ".building.json.partial").write_text("{")
    corpus = build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    (corpus.folder / "work").mkdir()
    (corpus.folder / "building.json").write_text("{}")
    build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    assert not (corpus.folder / "work").exists()
    assert not (corpus.folder / "building.json").exists()


def test_files_cut_short_are_noticed_when_opened(tmp_path: Path) -> None:
    corpus = build(inputs(tmp_path, all_members, mapping), TENTH, tmp_path / "corpus", UNFILTERED, QUIET)
    path = corpus.folder / "train.u64"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OutputError, match=r"train\.u64: 2,880 bytes are wanted, found 2872"):
        Corpus(corpus.folder)


def test_two_at_once(tmp_path: Path) -> None:
    files = inputs(tmp_path, all_members, mapping)
    (tmp_path / "corpus").mkdir()
    with FileLock(tmp_path / "corpus" / ".lock"), pytest.raises(JobError, match="another process builds this corpus"):
        build(files, TENTH, tmp_path / "corpus", UNFILTERED, QUIET)


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(OutputError, match=r"card\.json: damaged"):
        Corpus(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"recipe": {"name": "esm2"}}))
    with pytest.raises(OutputError, match=r"card\.json: damaged"):
        Corpus(tmp_path)
