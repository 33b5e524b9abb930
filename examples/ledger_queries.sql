-- Questions to the run ledger. They run on DuckDB and Postgres as they stand, and elsewhere with little change
-- ("rows" is a reserved word in some databases; BigQuery quotes it with backticks).
--
-- First say where the ledger is: `use games_data_dltobs` (DuckDB), `set search_path to games_data_dltobs`
-- (Postgres). Where the destination deletes no rows (a filesystem), a run has two rows in `runs`, of which the first
-- has no outcome; the queries allow for that, and for rows that are there twice: dlt loads at least once.

-- name: slowest tables this week
select
    runs.pipeline,
    tables.table_name,
    count(*) as loads,
    max(tables.duration) as longest_seconds,
    avg(tables.duration) as average_seconds,
    sum(tables."rows") as "rows"
from tables
join (select distinct transaction_id, pipeline from runs where outcome is not null) as runs
    on runs.transaction_id = tables.transaction_id
where tables.step = 'load' and tables.started_at >= current_timestamp - interval '7 days'
group by runs.pipeline, tables.table_name
order by longest_seconds desc, tables.table_name
limit 20;

-- name: rows a day
select
    cast(finished_at as date) as day,
    pipeline,
    count(*) as runs,
    sum("rows") as "rows",
    sum(bytes) as bytes
from (select distinct * from runs) as runs
where outcome in ('ok', 'ok_with_failed_jobs', 'no_data')
group by cast(finished_at as date), pipeline
order by day desc, pipeline;

-- name: failures by root cause
-- A failed attempt that was followed by another one of its retry loop is no failure of its own. `will_retry` alone
-- does not say that it was: the process may have died in the pause. (In loops within loops the attempts count anew.)
select
    pipeline,
    outcome,
    coalesce(error_type, 'failed jobs') as root_cause,
    count(*) as failures,
    max(attempt) as attempts,
    max(finished_at) as last_at,
    max(error_message) as message
from (select distinct * from runs) as runs
where outcome in ('failed', 'ok_with_failed_jobs', 'terminated', 'lost') and not exists (
    select 1
    from runs as later
    where later.retry_id = runs.retry_id
        and later.pipeline = runs.pipeline
        and later.started_at > runs.started_at
        and (later.attempt > runs.attempt or runs.will_retry)
)
group by pipeline, outcome, coalesce(error_type, 'failed jobs')
order by failures desc, pipeline, root_cause;

-- name: runs that never ended
-- Killed, out of memory, on a machine that went away; and those that are on now.
select
    transaction_id,
    pipeline,
    host,
    min(started_at) as started_at
from runs
group by transaction_id, pipeline, host
having count(outcome) = 0
order by started_at;
