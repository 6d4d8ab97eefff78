"""The card of a run's data set: what readers see, and what `datasets` needs to load it."""

import re

import pytest
from datasets import Features, load_dataset
from huggingface_hub import DatasetCard

from clair_apo.files import write_jsonl
from clair_apo.records import DropReason, Origin, PreferencePair, Sampling, Stage
from clair_apo.report import write_report
from clair_apo.report.dataset_card import features_of, markdown
from tests.helpers.report_runs import make_dropped, make_pair, make_run

HOSTILE = "a|b `c` <script>*_[x](y)\n# d & $e$"
MODEL = {"model": "m", "temperature": 0.7, "top_p": 0.9, "max_tokens": 64}
SECRET = {"base_url": "http://inside.example/v1", "api_key_env": "OUR_KEY"}


def with_origins(pair, chosen, rejected):
    provenance = pair.provenance.model_copy(update={"chosen": chosen, "rejected": rejected})
    return pair.model_copy(update={"provenance": provenance})


def revised(cost=None, tokens=(10, 3), keys=("k",), model="reviser"):
    return Origin(
        kind="revision",
        model=model,
        request_keys=keys,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        cost=cost,
    )


GIVEN = Origin(kind="given", model="given")


def make_card(path, train, test=(), dropped=(), **manifest):
    """A run with its data set; the text of the card."""
    run = make_run(path, [*train, *test], dropped, **manifest)
    write_jsonl(run.file("dataset") / "train.jsonl", train)
    if test:
        write_jsonl(run.file("dataset") / "test.jsonl", test)
    return write_report(path).card.read_text("utf-8")


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(card):
    """Every table of the card as a list of rows of cells, without its rule."""
    blocks = re.findall(r"(?m)(?:^\|.*\n)+", card)
    return [
        [cells(line) for line in block.splitlines() if set(line) - set("|-:")] for block in blocks
    ]


def rows_after(card, title):
    return tables(card[card.index(f"## {title}") :])[0]


def test_datasets_loads_the_folder_with_types_that_no_row_has_to_show(tmp_path):
    """Left to guess, `datasets` types a column by its first rows, here empty lists and nulls."""
    train = [with_origins(make_pair(f"a{n}"), revised(keys=()), GIVEN) for n in range(3)]
    said = Sampling(max_tokens=5, temperature=None, top_p=0.5, extra_body='{"a":1}')
    told = revised(0.25).model_copy(update={"sampling": said})
    test = [with_origins(make_pair("b"), told, revised(None, keys=("x", "y")))]
    make_card(tmp_path / "run", train, test)
    data = load_dataset(str(tmp_path / "run/dataset"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in data.items()} == {"train": 3, "test": 1}
    assert data["train"].features == Features._from_yaml_list(features_of(PreferencePair))
    for split, pairs in (("train", train), ("test", test)):
        assert list(data[split]) == [pair.model_dump(mode="json") for pair in pairs]


def test_the_hub_library_reads_the_head_of_the_card(tmp_path):
    make_card(tmp_path / "tone", [make_pair("a")], [make_pair("b")])
    data = DatasetCard.load(tmp_path / "tone/dataset/README.md").data.to_dict()
    assert data["pretty_name"] == "tone"
    assert data["size_categories"] == "n<1K"
    files = [{"split": s, "path": f"{s}.jsonl"} for s in ("train", "test")]
    assert data["configs"] == [{"config_name": "default", "data_files": files}]
    assert [column["name"] for column in data["dataset_info"]["features"]] == list(
        PreferencePair.model_fields
    )


def test_of_a_split_that_is_there_as_parquet_too_the_parquet_file_is_named(tmp_path):
    make_card(tmp_path, [make_pair("a")])
    (tmp_path / "dataset/train.parquet").touch()
    card = DatasetCard(write_report(tmp_path).card.read_text())
    files = [{"split": "train", "path": "train.parquet"}]
    assert card.data.to_dict()["configs"][0]["data_files"] == files


def test_the_outcomes_sum_up_to_the_prompts(tmp_path):
    dropped = [
        *(make_dropped(f"c{n}") for n in range(3)),
        make_dropped("d", stage=Stage.LOAD, reason=DropReason.DUPLICATE),
        make_dropped("e", stage=Stage.LOAD, reason=DropReason.CONTAMINATED),
    ]
    card = make_card(tmp_path, [make_pair(str(n)) for n in range(4)], dropped=dropped)
    head, kept, *drops, whole = rows_after(card, "Where the prompts went")
    assert head[:3] == ["outcome", "stage", "prompts"]
    assert kept[0] == "kept" and kept[2] == "4"
    assert [(drop[0].replace("\\", ""), drop[2]) for drop in drops] == [
        ("contaminated", "1"),
        ("duplicate", "1"),
        ("cut", "3"),
    ]
    assert whole[2] == "9" and str(4 + sum(int(drop[2]) for drop in drops)) == "9"
    assert "Duplicates dropped: 1." in card


def test_every_statistic_stands_there_with_n_interval_and_tokeniser(tmp_path):
    pairs = [make_pair("a", jaccard=0.25), make_pair("b", jaccard=0.75)]
    card = make_card(tmp_path, pairs, contrast_tokenizer="by spaces")
    assert "n = 2 pairs" in card and "Jaccard tokens: by spaces." in card
    found = {line[0]: line for line in rows_after(card, "How far apart")}
    summary = write_report(tmp_path).summary
    jaccard = summary.statistics[0].mean
    assert found["Jaccard similarity"][1] == "0.500"
    low = f"{jaccard.low:.3f}".replace("-", "\N{MINUS SIGN}")
    assert found["Jaccard similarity"][2] == f"{low} to {jaccard.high:.3f}"
    assert len(found) == 1 + len(summary.statistics)


def test_models_settings_template_and_gate_are_named_and_what_is_private_is_not(tmp_path):
    card = make_card(
        tmp_path,
        [make_pair("a")],
        config={
            "prompts": {"path": "/home/somebody/secret/p.jsonl"},
            "target": MODEL | {"model": "/home/somebody/my-model"},
            "reviser": MODEL | SECRET | {"model": "strong"},
            "judge": None,
            "revision": {"format": "edits", "rubric": "/home/somebody/rules.md"},
            "gate": {"max_edit_ratio": 0.8, "max_length": None},
        },
        settings={"template": "abc123", "target": {"model": "/home/somebody/my-model"}},
        packages={"clair-apo": "9.8.7"},
        git_revision="f00",
    )
    facts = {line[0]: line[1] for line in rows_after(card, "How it was made")}
    assert facts["Prompts"] == "p.jsonl"
    assert facts["Target"] == "my-model; temperature 0.7, top-p 0.9, at most 64 tokens"
    assert facts["Reviser"].startswith("strong; temperature 0.7")
    assert facts["Revision"] == "format edits, template abc123, with a rubric"
    assert (facts["Gate: max\\_edit\\_ratio"], facts["Gate: max\\_length"]) == ("0.8", "off")
    assert facts["Commit of the working directory"] == "f00" and "9.8.7" in facts["Versions"]
    assert "Judge" not in facts
    for private in ("somebody", "inside.example", "OUR_KEY"):
        assert private not in card


def test_settings_that_were_left_to_the_server_and_what_was_sent_beside_are_told(tmp_path):
    reviser = MODEL | {"temperature": None, "top_p": None, "extra_body": {"effort": "low"}}
    card = make_card(tmp_path, [make_pair("a")], config={"reviser": reviser})
    facts = {line[0]: line[1].replace("\\", "") for line in rows_after(card, "How it was made")}
    assert facts["Reviser"] == (
        "m; temperature left to the server, top-p left to the server, "
        'sent beside: {"effort":"low"}, at most 64 tokens'
    )


def test_a_target_that_was_not_asked_is_not_named(tmp_path):
    pair = with_origins(make_pair("a"), revised(), GIVEN)
    card = make_card(tmp_path, [pair], config={"target": MODEL, "reviser": MODEL})
    facts = {line[0] for line in rows_after(card, "How it was made")}
    assert "Reviser" in facts and "Target" not in facts


def test_tokens_and_cost_are_summed_by_side_and_model(tmp_path):
    pairs = [
        with_origins(make_pair("a"), revised(0.25, (10, 3)), GIVEN),
        with_origins(make_pair("b"), revised(0.5, (20, 4)), GIVEN),
        with_origins(make_pair("c"), revised(None, (1, 1), model="free"), GIVEN),
    ]
    _, *sources = rows_after(make_card(tmp_path, pairs), "Tokens and cost")
    assert sources == [
        ["chosen", "revision", "free", "1", "1", "1", "no price"],
        ["chosen", "revision", "reviser", "2", "30", "7", "0.7500"],
        ["rejected", "given", "given", "3", "0", "0", "0.0000"],
    ]


def test_the_cost_of_all_that_was_asked_for_the_pairs_is_told_where_it_is_known(tmp_path):
    def pair(name, cost):
        made = make_pair(name)
        provenance = made.provenance.model_copy(update={"cost": cost})
        return made.model_copy(update={"provenance": provenance})

    known = make_card(tmp_path / "known", [pair("a", 0.25), pair("b", 1.5)])
    assert "the kept pairs took 1.7500 US dollars" in known
    assert "the kept pairs took" not in make_card(tmp_path / "not", [pair("a", 1), pair("b", None)])


def test_test_sets_stand_there_with_their_digests_or_that_there_were_none(tmp_path):
    assert "Not compared with any test set." in make_card(tmp_path / "none", [make_pair("a")])
    tests = {"name": "/data/mixeval.json", "questions": 1000, "digest": "ab" * 32}
    card = make_card(
        tmp_path / "some",
        [make_pair("a")],
        dropped=[make_dropped("e", stage=Stage.LOAD, reason=DropReason.CONTAMINATED)],
        settings={"test_sets": [tests]},
        config={"prompts": {"ngram": 13}},
    )
    assert "1 of 2 prompts shared 13 words in a row" in card
    assert rows_after(card, "Contamination")[1] == ["mixeval.json", "1,000", "ab" * 32]


def test_what_a_judge_said_is_told_in_numbers(tmp_path):
    assert "Nobody checked" in make_card(tmp_path / "none", [make_pair("a")])
    verified = {"claims": 9, "confirmed": 7, "controls": 3, "controls_rejected": 2}
    card = make_card(
        tmp_path / "verified", [make_pair("a")], stages={"verify": {"verification": verified}}
    )
    assert "Nobody checked" not in card
    assert "confirmed 7 of 9 claims" in card and "rejected 2 of 3 swapped-order controls" in card
    numbers = {"comparisons": 8, "consistent": 5, "ties": 1, "inconsistent": 2, "unreadable": 0}
    card = make_card(
        tmp_path / "judged", [make_pair("a")], stages={"judge": {"comparisons": numbers}}
    )
    assert "of 8 comparisons 5 were consistent, 1 ties, 2 inconsistent and 0 unreadable" in card


def test_hostile_names_are_text_and_break_no_table(tmp_path):
    pair = with_origins(make_pair("a"), revised(model=HOSTILE), GIVEN)
    arguments = {
        "config": {
            "prompts": {"path": HOSTILE, "ngram": 13},
            "reviser": MODEL | {"model": HOSTILE},
            "revision": {"format": "edits", "rubric": None},
        },
        "settings": {
            "template": HOSTILE,
            "test_sets": [{"name": HOSTILE, "questions": 1, "digest": "d"}],
        },
        "contrast_tokenizer": HOSTILE,
        "packages": {"clair-apo": HOSTILE},
    }
    card = make_card(tmp_path / "run", [pair.model_copy(update={"recipe": HOSTILE})], **arguments)
    body = card.split("\n---\n", 1)[1]
    assert all(len({len(line) for line in table}) == 1 for table in tables(body))
    assert not re.search(r"(?<!\\)<", body)
    assert HOSTILE.splitlines()[0] not in body
    assert len(re.findall("(?m)^#+ ", body)) == len(re.findall("(?m)^#+ [A-Zr]", body))
    assert body.count(markdown(HOSTILE)) >= 5


@pytest.mark.parametrize("text", [HOSTILE, "plain words", "1.5", "\\*"])
def test_escaped_text_shows_the_same_characters(text):
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown(text))
    assert shown == " ".join(text.split())


def test_the_same_run_gives_the_same_card_and_a_run_without_data_set_none(tmp_path):
    first = make_card(tmp_path / "run", [make_pair("a")])
    assert write_report(tmp_path / "run").card.read_text() == first
    make_run(tmp_path / "bare", [make_pair("a")])
    assert write_report(tmp_path / "bare").card is None


def test_the_card_says_what_the_sides_are_where_the_manifest_does(tmp_path):
    sides = {"chosen": "the better one", "rejected": "the worse one"}
    card = make_card(tmp_path / "told", [make_pair("a")], sides=sides)
    assert "Recipe clair: rejected is the worse one, chosen is the better one. Method:" in card
    assert "Recipe clair. Method:" in make_card(tmp_path / "untold", [make_pair("a")])
