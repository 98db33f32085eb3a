"""Pools: what another run holds in Dagster, a stage of this one waits for."""

import threading
import time

from dagster_project import Project

OTHER = ("another-run", "another-step")


def test_a_stage_waits_for_its_pool_while_another_run_has_it(project: Project):
    project.settings = {"concurrency": {"pool": "narrow"}}
    storage = project.instance.event_log_storage
    storage.set_concurrency_slots("narrow", 1)
    assert storage.claim_concurrency_slot("narrow", *OTHER).is_claimed
    freed: list[float] = []

    def free() -> None:
        time.sleep(1)
        freed.append(time.time())
        storage.free_concurrency_slot_for_step(*OTHER)

    job = project.job()
    releasing = threading.Thread(target=free)
    releasing.start()
    result = project.run(job=job)
    releasing.join()

    assert result.success
    starts = [
        one.timestamp
        for one in project.instance.all_logs(result.run_id)
        if one.dagster_event is not None and one.dagster_event.is_step_start
    ]
    assert len(starts) == 2
    assert min(starts) >= freed[0]
    assert len(project.written()) == project.rows
