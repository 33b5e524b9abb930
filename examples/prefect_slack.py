"""Slack into a warehouse, every night, by dlt and Prefect: https://dlthub.com/docs/blog/dlt-prefect.

Channels, the messages of each channel since a date, and users. Beside that article's pipeline there is one
line: `dltobs.configure()`. With it, Prefect's UI shows dlt's log under each task and a report of each run,
and wherever traces go, a run of the pipeline is below its task and flow.

    pip install 'dltobs[prefect]' 'dlt[duckdb]'
    export SOURCES__SLACK__ACCESS_TOKEN=xoxb-… RUNTIME__LOG_LEVEL=INFO PREFECT_API_URL=http://127.0.0.1:4200/api
    python examples/prefect_slack.py          # serve it: it runs at midnight, and when the UI is told to
    python examples/prefect_slack.py --once   # run it now
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dlt
from dlt.sources.helpers.rest_client.auth import BearerTokenAuth
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator
from prefect import flow, task

import dltobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response

dltobs.configure()  # not below `__main__`: for each flow run, Prefect loads this module in another process

PAGE_SIZE = 200


class SlackError(Exception):
    """Slack has answered `"ok": false`, which it does with status 200."""


def refuse_errors(response: Response, *_: Any, **__: Any) -> None:
    """Raise where Slack says that it has failed; after a 429 or 5xx, dlt waits and asks again."""
    response.raise_for_status()  # in the place of dlt's own hook, which is not there beside others
    if not response.json().get("ok"):
        message = f"{response.json().get('error')} ({response.url})"
        raise SlackError(message)


@dlt.source(name="slack", section="slack")
def slack_source(
    start_date: str | None = None,
    only: str | None = None,
    access_token: str = dlt.secrets.value,
    base_url: str = "https://slack.com/api/",
) -> Any:
    """Resources `channels` and `users`, and one named as each channel, with its messages.

    Args:
        start_date: Messages since that day, as `2026-01-31`.
        only: The one channel whose messages are wanted; None: no messages.
        access_token: A token with the scopes `channels:read`, `channels:history` and `users:read`.
        base_url: Of Slack's Web API.
    """
    client = RESTClient(
        base_url=base_url,
        auth=BearerTokenAuth(access_token),
        paginator=JSONResponseCursorPaginator(
            cursor_path="response_metadata.next_cursor", cursor_param="cursor"
        ),
    )

    def pages(method: str, selector: str, **params: Any) -> Iterator[Any]:
        params["limit"] = PAGE_SIZE
        yield from client.paginate(
            method, params=params, data_selector=selector, hooks={"response": [refuse_errors]}
        )

    @dlt.resource(primary_key="id", write_disposition="replace")
    def channels() -> Iterator[Any]:
        yield from pages("conversations.list", "channels")

    @dlt.resource(primary_key="id", write_disposition="replace")
    def users() -> Iterator[Any]:
        yield from pages("users.list", "members")

    @dlt.resource(primary_key=("channel", "ts"), write_disposition="merge")
    def messages() -> Iterator[Any]:
        since = datetime.fromisoformat(start_date or "1970-01-01").replace(tzinfo=timezone.utc).timestamp()
        wanted = next(one for one in channels() if one["name"] == only)
        for page in pages("conversations.history", "messages", channel=wanted["id"], oldest=str(since)):
            yield [{"channel": only, **message} for message in page]

    if only is None:
        return channels, users
    return messages.with_name(only).apply_hints(table_name=f"messages_{only}")


def pipeline() -> dlt.Pipeline:
    """The warehouse; `destination="bigquery"` in the article."""
    return dlt.pipeline("slack", destination="duckdb", dataset_name="slack_data")


@task(retries=2)
def load_channels() -> None:
    """Load the list of channels."""
    pipeline().run(slack_source().with_resources("channels"))


@task(retries=2)
def get_resources() -> list[str]:
    """The names of the channels, to load them one by one."""
    return [channel["name"] for channel in slack_source().channels]


@task(retries=2, task_run_name="history-of-{channel}")
def load_channel_history(channel: str, start_date: str) -> None:
    """Load the messages of a channel since a day."""
    pipeline().run(slack_source(start_date=start_date, only=channel))


@task(retries=2)
def get_users() -> None:
    """Load the list of users."""
    pipeline().run(slack_source().with_resources("users"))


@flow
def slack_pipeline(channels: list[str] | None = None, start_date: str | None = None) -> None:
    """Load channels, their messages since `start_date` (yesterday), and users."""
    since = start_date or (datetime.now(timezone.utc) - timedelta(days=1)).date().isoformat()
    load_channels()
    for channel in get_resources():
        if channels is None or channel in channels:
            load_channel_history(channel, since)
    get_users()


if __name__ == "__main__":
    if "--once" in sys.argv:
        slack_pipeline()
    else:
        slack_pipeline.serve("slack_pipeline", cron="0 0 * * *")
