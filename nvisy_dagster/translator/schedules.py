"""A graph's schedule, if it has one."""

import dagster as dg

from nvisy_dagster.compiler import Plan


def graph_schedules(plan: Plan, job: str) -> list[dg.ScheduleDefinition]:
    """The schedule of a graph's job.

    It is running as soon as Dagster's daemon knows it, because the graph says so; whoever stops it
    on Dagster's pages has the last word.
    """
    if plan.schedule is None:
        return []
    return [
        dg.ScheduleDefinition(
            name=f"{job}_schedule",
            job_name=job,
            cron_schedule=plan.schedule.cron,
            execution_timezone=plan.schedule.timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=plan.description,
        )
    ]
