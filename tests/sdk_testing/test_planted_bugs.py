"""Negative control: every bug in `planted_*_bugs.py` must turn its suite red, by the right test."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLANTED = {
    suite: file
    for file in sorted(HERE.glob("planted_*_bugs.py"))
    for suite in re.findall(r"^class (Test\w+)", file.read_text(), re.MULTILINE)
}

FOUND_BY = {
    "TestCursorOffByOne": "test_resumes_from_every_cursor",
    "TestCursorLostInJson": "test_cursors_survive_json",
    "TestSourceRandomIds": "test_reads_the_same_again",
    "TestSourceOtherSchema": "test_one_schema",
    "TestSourceEmptyBatch": "test_batches_are_valid",
    "TestSourceLeaksClient": "test_opens_and_closes_twice",
    "TestSourceLeaksTask": "test_closes_unused",
    "TestSourceLeaksWhenCancelled": "test_cancels_promptly",
    "TestSourceBlocks": "test_never_blocks_the_loop",
    "TestSourceClosesSlowly": "test_closes_early",
    "TestSourceImpure": "test_compiles_without_io",
    "TestSourceTellsSecret": "test_tells_no_secret",
    "TestSinkSwallowsRow": "test_rows_are_there_after_commit",
    "TestSinkCommitDoesNotWait": "test_rows_are_there_after_commit",
    "TestSinkUpsertAppends": "test_crash_before_the_checkpoint",
    "TestSinkUpsertKeepsFirst": "test_upsert_replaces",
    "TestSinkEpochKeepsUncovered": "test_crash_after_the_checkpoint",
    "TestSinkEpochDiscardsCovered": "test_crash_after_the_checkpoint",
    "TestSinkDiscardsOtherRuns": "test_other_runs",
    "TestSinkLosesOverlappingWrites": "test_overlapping_writes",
    "TestSinkFailsOnEmptyBatch": "test_nothing_to_write",
    "TestSinkChecksNothing": "test_refuses_what_does_not_fit",
    "TestSinkBlocks": "test_never_blocks_the_loop",
    "TestSplitLosesRow": "test_split_covers_every_row_once",
    "TestSplitTooLarge": "test_split_covers_every_row_once",
    "TestActionDependsOnCuts": "test_cuts_do_not_matter",
    "TestActionRandomIds": "test_ids_are_unique_and_stable",
    "TestActionDoublesIds": "test_ids_are_unique_and_stable",
    "TestActionWrongParents": "test_lineage",
    "TestActionWrongRoots": "test_lineage",
    "TestActionMixesCalls": "test_calls_may_overlap",
    "TestNoDocstring": "test_documents_itself",
    "TestNoParamDocs": "test_documents_itself",
    "TestParamsNotJson": "test_params_survive_json",
    "TestBlockingDependsOnCuts": "test_cuts_do_not_matter",
    "TestBlockingLosesRecord": "test_each_record_is_one_that_came_in",
    "TestBlockingNewIds": "test_each_record_is_one_that_came_in",
    "TestBlockingDoubles": "test_each_record_is_one_that_came_in",
    "TestBlockingMakesUp": "test_one_schema",
    "TestJoiningDependsOnCuts": "test_cuts_do_not_matter",
    "TestJoiningRandomIds": "test_cuts_do_not_matter",
    "TestJoiningWrongRoots": "test_records_are_made_of_those_that_came_in",
    "TestJoiningMiscounts": "test_one_schema",
    "TestSequentialForgets": "test_goes_on_behind_any_record",
    "TestSequentialKeepsSome": "test_flushed_it_holds_nothing_back",
    "TestSequentialDependsOnCuts": "test_goes_on_behind_any_record",
    "TestSequentialEnoughTooEarly": "test_enough_is_enough",
    "TestSequentialLosesRecord": "test_each_record_is_one_that_came_in",
    "TestSequentialMoves": "test_cuts_do_not_matter",
    "TestRouterDoubles": "test_each_record_takes_one_route",
    "TestRouterUnknownRoute": "test_routes_are_named",
    "TestRouterDependsOnCuts": "test_cuts_do_not_matter",
}


@pytest.fixture(scope="session")
def failures(tmp_path_factory):
    """Names of the failed tests of each planted suite, from one run of those that should fail."""
    report = tmp_path_factory.mktemp("planted") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
    command += [f"--junit-xml={report}"]
    command += [f"{PLANTED[suite]}::{suite}::{test}" for suite, test in FOUND_BY.items()]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert run.returncode == 1, run.stdout + run.stderr
    failed = defaultdict(set)
    for case in ET.parse(report).iter("testcase"):
        suite = case.attrib["classname"].rpartition(".")[2]
        if case.find("failure") is not None:
            failed[suite].add(case.attrib["name"].partition("[")[0])
        error = case.find("error")
        assert error is None, f"{case.attrib}: {error.text}"
    return failed


def test_each_bug_is_found(failures):
    """In one test, so that they run once and not in each of pytest's workers."""
    missed = {suite: test for suite, test in FOUND_BY.items() if test not in failures[suite]}
    assert not missed


def test_every_planted_suite_is_expected():
    assert PLANTED.keys() == FOUND_BY.keys()
