"""A graph's schedule, if it has one."""

import dagster as dg

from nvisy_dagster.compiler import Plan

WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING]
"""Of runs that will begin. One that was only made may never be launched, and holds up nothing."""


def graph_schedules(plan: Plan, job: str) -> list[dg.ScheduleDefinition]:
    """The schedule of a graph's job.

    It is running as soon as Dagster's daemon knows it, because the graph says so; whoever stops it
    on Dagster's pages has the last word. A run that is due while the last one still runs waits for
    it; one that is due while another waits already is left out, or they would pile up.
    """
    if plan.schedule is None:
        return []

    def due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        waiting = dg.RunsFilter(job_name=job, statuses=WAITING)
        if context.instance.get_runs_count(waiting):
            return dg.SkipReason(f"a run of {job} waits already")
        return dg.RunRequest()

    return [
        dg.ScheduleDefinition(
            name=f"{job}_schedule",
            job_name=job,
            cron_schedule=plan.schedule.cron,
            execution_timezone=plan.schedule.timezone,
            execution_fn=due,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=plan.description,
        )
    ]
